//! What a buffer is for, derived from the functions on the stack of its allocation or creation.
//!
//! The rules name the functions of TT-Metal that create buffers. The names are from its sources, and were
//! compared with the calls of `Buffer::create`, `BufferImpl::create` and `MeshBuffer::create` in the machine
//! code of the releases 0.62.2, 0.66.0, 0.77.0, 0.79.0 and 0.81.1, and of `_ttnncpp.so` where available.
//! Besides its own buffer such a function may create others (a chip's share of a mesh's buffer, a view to
//! write through). Those are non-owning and have rules of their own. For all other buffers it suffices that
//! one of the functions is on the stack.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{
    cpp_name::{ends_in, qualified},
    frame::{FrameKind, Stack},
    ledger::{BufferType, Ownership},
};

/// What a buffer is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Origin {
    /// A tensor's data: the application's memory.
    Tensor,
    /// A non-owning buffer that refers to a part or all of another buffer: a reshaped tensor, a slice.
    View,
    /// A chip's non-owning share of a mesh's buffer.
    MeshMember,
    /// The binaries of a program's kernels, and the program's own non-owning buffer for them. They live as
    /// long as the program is cached.
    Program,
    /// A captured trace, or another prepared command list.
    Trace,
    /// A global semaphore.
    Semaphore,
    /// A global circular buffer: its data or its configuration.
    GlobalCircularBuffer,
    /// A buffer of the runtime itself: for sockets and streams between host and devices or between meshes,
    /// or in host memory that devices access.
    System,
    /// No rule matches: there is no stack, or no function that a rule names is on it.
    #[serde(other)]
    Unknown,
}

impl Origin {
    /// Whether such a buffer may be a leak of the application if it is live at its process's end.
    pub(crate) fn may_leak(self) -> bool {
        matches!(self, Self::Tensor | Self::Unknown)
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tensor => "tensor",
            Self::View => "view",
            Self::MeshMember => "mesh member",
            Self::Program => "program",
            Self::Trace => "trace",
            Self::Semaphore => "semaphore",
            Self::GlobalCircularBuffer => "global circular buffer",
            Self::System => "system",
            Self::Unknown => "unknown",
        })
    }
}

/// The condition of a rule. *The stack* is that of the buffer's allocation or creation.
enum Condition {
    /// The buffer is non-owning, and this is the innermost function on the stack.
    NonOwningInnermost(&'static str),
    /// The buffer is non-owning, and one of these functions is the innermost on the stack that isn't one of
    /// the [`MAKERS`].
    NonOwningMadeBy(&'static [&'static str]),
    /// The buffer is non-owning, and one of these functions is on the stack.
    NonOwningUnder(&'static [&'static str]),
    /// One of these functions is on the stack.
    Under(&'static [&'static str]),
    /// The buffer is owning, and in this type of memory.
    OwningIn(BufferType),
    /// The buffer is in this type of memory.
    In(BufferType),
}

/// The functions that make every kind of buffer.
const MAKERS: [&str; 6] = [
    "Buffer::create",
    "BufferImpl::create",
    "MeshBuffer::create",
    "MeshBufferImpl::create",
    "MeshBuffer::initialize_device_buffers",
    "MeshBufferImpl::initialize_device_buffers",
];

/// The rules; the first one that matches applies. A function is given by the end of its qualified name.
const RULES: [(Origin, Condition); 12] = [
    // Only owning buffers get here. A non-owning one with this stack is a mesh member whose creation has the
    // stack of the mesh's allocation right before it.
    (
        Origin::MeshMember,
        Condition::NonOwningInnermost("GraphTracker::track_allocate"),
    ),
    // Sub-regions of a buffer, for reads and writes in parts.
    (
        Origin::View,
        Condition::NonOwningUnder(&["Buffer::view", "BufferImpl::view"]),
    ),
    // Tensors in another tensor's memory: TT-Metal makes a mesh's buffer at that address, but creates only the
    // buffers of its members. `reshape`, `slice` and others call the first of these, or make a new tensor.
    (
        Origin::View,
        Condition::NonOwningMadeBy(&[
            "tt_metal::view",
            "(anonymous namespace)::view_device",
            "ttnn::experimental::view",
            "ttnn::narrow",
        ]),
    ),
    // One for each member, at the address of the mesh's own buffer. `create` is on the stack where the compiler
    // inlined `initialize_device_buffers`.
    (
        Origin::MeshMember,
        Condition::NonOwningUnder(&[
            "MeshBuffer::initialize_device_buffers",
            "MeshBufferImpl::initialize_device_buffers",
            "MeshBuffer::create",
        ]),
    ),
    // When a program is first enqueued: the first two functions make a mesh's buffer, the others a chip's.
    (
        Origin::Program,
        Condition::Under(&[
            "MeshWorkload::load_binaries",
            "MeshWorkloadImpl::load_binaries",
            "ProgramImpl::allocate_kernel_bin_buf_on_device",
            "Program::allocate_kernel_bin_buf_on_device",
        ]),
    ),
    // Traces are also in DRAM, if a device has no trace region.
    (
        Origin::Trace,
        Condition::Under(&[
            "MeshTrace::populate_mesh_buffer",
            "Trace::initialize_buffer",
            "CommandListBuilderImpl::allocate_and_commit",
        ]),
    ),
    (
        Origin::Semaphore,
        Condition::Under(&[
            "GlobalSemaphore::setup_buffer",
            "GlobalSemaphoreImpl::setup_buffer",
        ]),
    ),
    // The cross-node dataflow buffer is the successor of the global circular buffer.
    (
        Origin::GlobalCircularBuffer,
        Condition::Under(&[
            "GlobalCircularBuffer::setup_cb_buffers",
            "GlobalCircularBufferImpl::setup_cb_buffers",
            "CrossNodeDFB::setup_buffers",
            "CrossNodeDFB::allocate_config_buffer",
        ]),
    ),
    (
        Origin::System,
        Condition::Under(&[
            "create_socket_config_buffer",
            "create_socket_data_buffer",
            "H2DSocket::init_config_buffer",
            "H2DSocket::init_data_buffer",
            "D2HSocket::init_config_buffer",
            "H2DStreamService::H2DStreamService",
            "D2HStreamService::D2HStreamService",
        ]),
    ),
    // The others call the first one; they are on the stack even where a compiler inlines it.
    (
        Origin::Tensor,
        Condition::Under(&[
            "tensor_impl::allocate_device_buffer",
            "tt_metal::create_device_tensor",
            "tt_metal::allocate_mesh_tensor_on_device_with_topology",
        ]),
    ),
    // Only traces lie there. A non-owning buffer there is a member or a view; which of them is unknown.
    (Origin::Trace, Condition::OwningIn(BufferType::Trace)),
    // The host's huge pages, which the command queues use.
    (Origin::System, Condition::In(BufferType::SystemMemory)),
];

/// What a buffer is for, derived from its type of memory, its ownership, and the stack of its allocation or
/// creation.
pub(crate) fn origin(
    buffer_type: BufferType,
    ownership: Ownership,
    stack: Option<&Stack>,
) -> Origin {
    let names: Vec<String> = stack
        .into_iter()
        .flat_map(|stack| &stack.frames)
        .filter(|frame| frame.kind == FrameKind::Native)
        .filter_map(|frame| frame.function.as_deref())
        .map(qualified)
        .collect();
    let is_one_of = |name: &String, functions: &[&str]| {
        functions.iter().any(|function| ends_in(name, function))
    };
    let is_under = |functions: &[&str]| names.iter().any(|name| is_one_of(name, functions));
    let made_by = names.iter().find(|name| !is_one_of(name, &MAKERS));
    let owning = ownership == Ownership::Owning;
    let rule = RULES.iter().find(|(_, condition)| match condition {
        Condition::NonOwningInnermost(function) => {
            !owning && names.first().is_some_and(|name| ends_in(name, function))
        }
        Condition::NonOwningMadeBy(functions) => {
            !owning && made_by.is_some_and(|name| is_one_of(name, functions))
        }
        Condition::NonOwningUnder(functions) => !owning && is_under(functions),
        Condition::Under(functions) => is_under(functions),
        Condition::OwningIn(memory) => owning && buffer_type == *memory,
        Condition::In(memory) => buffer_type == *memory,
    });
    rule.map_or(Origin::Unknown, |(origin, _)| *origin)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::Frame;

    const BOTH: [Ownership; 2] = [Ownership::Owning, Ownership::NonOwning];

    fn native(function: &str) -> Frame {
        Frame {
            kind: FrameKind::Native,
            function: Some(function.to_owned()),
            file: None,
            line: None,
            module: Some("/lib/libtt_metal.so".to_owned()),
            offset: Some(0x1000),
        }
    }

    /// The origins of an owning and a non-owning buffer with these functions on their stacks.
    fn origins(functions: &[&str]) -> [Origin; 2] {
        let stack = Stack {
            frames: functions.iter().copied().map(native).collect(),
            broken: None,
        };
        BOTH.map(|ownership| origin(BufferType::Dram, ownership, Some(&stack)))
    }

    const CREATE: &str = "tt::tt_metal::BufferImpl::create(tt::tt_metal::IDevice*, unsigned long)";
    const MEMBERS: &str = "tt::tt_metal::distributed::MeshBuffer::initialize_device_buffers()";
    const ON_MESH: &str =
        "tt::tt_metal::distributed::MeshBuffer::create(tt::tt_metal::distributed::MeshDevice*)";

    #[test]
    fn a_tensors_buffer_and_its_members() {
        for function in [
            "tt::tt_metal::tensor_impl::allocate_device_buffer(tt::tt_metal::TensorSpec const&)",
            "tt::tt_metal::create_device_tensor(tt::tt_metal::TensorSpec const&)",
            "tt::tt_metal::allocate_mesh_tensor_on_device_with_topology(tt::tt_metal::TensorSpec)",
        ] {
            assert_eq!(origins(&[CREATE, ON_MESH, function])[0], Origin::Tensor);
            assert_eq!(
                origins(&[CREATE, MEMBERS, ON_MESH, function])[1],
                Origin::MeshMember
            );
        }
        assert_eq!(
            origins(&[CREATE, ON_MESH])[1],
            Origin::MeshMember,
            "inlined"
        );
    }

    #[test]
    fn a_view() {
        for function in [
            "tt::tt_metal::Buffer::view(tt::tt_metal::BufferRegion const&)",
            "tt::tt_metal::BufferImpl::view(tt::tt_metal::Buffer&, tt::tt_metal::BufferRegion const&)",
        ] {
            assert_eq!(origins(&[CREATE, function])[1], Origin::View);
        }
    }

    /// The stacks are those of 0.81.1, of 0.77.0, and of both with all inlined that can be.
    #[test]
    fn a_tensor_in_another_tensors_memory_is_a_view() {
        for functions in [
            &[
                "tt::tt_metal::(anonymous namespace)::view_device(ttnn::Tensor const&)",
                "tt::tt_metal::view(ttnn::Tensor const&, tt::tt_metal::Shape const&)",
                "ttnn::Tensor::reshape(tt::tt_metal::Shape const&) const",
                "ttnn::softmax(ttnn::Tensor const&, signed char)",
            ][..],
            &[
                "tt::tt_metal::view(ttnn::Tensor const&, tt::tt_metal::Shape const&)",
                "ttnn::experimental::view(ttnn::Tensor const&, tt::tt_metal::Shape const&)",
                "ttnn::operations::data_movement::PerformView(ttnn::Tensor const&)",
            ],
            &["ttnn::experimental::view(ttnn::Tensor const&, tt::tt_metal::Shape const&)"],
            &["ttnn::narrow(ttnn::Tensor const&, int, int, unsigned int)"],
        ] {
            assert_eq!(
                origins(&[&[CREATE, MEMBERS, ON_MESH], functions].concat())[1],
                Origin::View
            );
            assert_eq!(
                origins(&[&[CREATE, ON_MESH], functions].concat())[1],
                Origin::View
            );
        }
    }

    #[test]
    fn a_tensor_that_cannot_lie_in_another_tensors_memory_is_a_tensor() {
        let narrow = "ttnn::narrow(ttnn::Tensor const&, int, int, unsigned int)";
        let tensor =
            "tt::tt_metal::tensor_impl::allocate_device_buffer(tt::tt_metal::TensorSpec const&)";
        assert_eq!(
            origins(&[CREATE, MEMBERS, ON_MESH, tensor, narrow])[1],
            Origin::MeshMember
        );
        assert_eq!(
            origins(&[CREATE, ON_MESH, tensor, narrow])[0],
            Origin::Tensor
        );
    }

    #[test]
    fn a_member_with_the_stack_of_its_meshs_buffer_is_a_member() {
        let track = "tt::tt_metal::GraphTracker::track_allocate(tt::tt_metal::Buffer const*)";
        let tensor =
            "tt::tt_metal::tensor_impl::allocate_device_buffer(tt::tt_metal::TensorSpec const&)";
        let setup = "tt::tt_metal::GlobalSemaphoreImpl::setup_buffer(BufferType)";
        for (functions, of_mesh) in [
            // In the next ones a compiler inlined what is between.
            (&[track, CREATE, ON_MESH, tensor][..], Origin::Tensor),
            (&[track, CREATE, tensor], Origin::Tensor),
            (&[track, setup], Origin::Semaphore),
            (&[track, CREATE], Origin::Unknown),
        ] {
            assert_eq!(origins(functions), [of_mesh, Origin::MeshMember]);
        }
    }

    #[test]
    fn a_programs_binaries() {
        for function in [
            "tt::tt_metal::distributed::MeshWorkload::load_binaries(MeshCommandQueue&)",
            "tt::tt_metal::distributed::MeshWorkloadImpl::load_binaries(MeshCommandQueue&)",
            "tt::tt_metal::Program::allocate_kernel_bin_buf_on_device(tt::tt_metal::IDevice*)",
            "tt::tt_metal::detail::ProgramImpl::allocate_kernel_bin_buf_on_device(IDevice*)",
        ] {
            assert_eq!(origins(&[CREATE, function]), [Origin::Program; 2]);
            // On each member chip there is a member of the mesh's buffer.
            assert_eq!(
                origins(&[CREATE, MEMBERS, ON_MESH, function])[1],
                Origin::MeshMember
            );
        }
    }

    #[test]
    fn a_function_that_makes_buffers_gives_their_origin() {
        for (expected, functions) in [
            (
                Origin::Trace,
                &[
                    "tt::tt_metal::distributed::MeshTrace::populate_mesh_buffer(MeshCommandQueue&)",
                    "tt::tt_metal::Trace::initialize_buffer()",
                    "tt::tt_metal::experimental::detail::CommandListBuilderImpl::allocate_and_commit() const",
                ][..],
            ),
            (
                Origin::Semaphore,
                &[
                    "tt::tt_metal::GlobalSemaphore::setup_buffer(unsigned int, BufferType)",
                    "tt::tt_metal::GlobalSemaphoreImpl::setup_buffer(std::optional<unsigned int>, BufferType)",
                ],
            ),
            (
                Origin::GlobalCircularBuffer,
                &[
                    "tt::tt_metal::experimental::GlobalCircularBuffer::setup_cb_buffers(BufferType)",
                    "tt::tt_metal::experimental::GlobalCircularBufferImpl::setup_cb_buffers(BufferType)",
                    "tt::tt_metal::experimental::CrossNodeDFB::setup_buffers(BufferType)",
                    "tt::tt_metal::experimental::CrossNodeDFB::allocate_config_buffer(BufferType)",
                ],
            ),
            (
                Origin::System,
                &[
                    "tt::tt_metal::distributed::create_socket_config_buffer(SocketConfig const&)",
                    "tt::tt_metal::distributed::create_socket_data_buffer(SocketConfig const&)",
                    "tt::tt_metal::distributed::H2DSocket::init_config_buffer(MeshDevice const&)",
                    "tt::tt_metal::distributed::H2DSocket::init_data_buffer(MeshDevice const&, unsigned int)",
                    "tt::tt_metal::distributed::D2HSocket::init_config_buffer(MeshDevice const&)",
                    "tt::tt_metal::H2DStreamService::H2DStreamService(MeshDevice const&)",
                    "tt::tt_metal::D2HStreamService::D2HStreamService(MeshDevice const&)",
                ],
            ),
        ] {
            for function in functions {
                let [owning, _] = origins(&[CREATE, ON_MESH, function]);
                assert_eq!(owning, expected, "{function}");
            }
        }
    }

    #[test]
    fn a_programs_binaries_are_no_tensor_of_the_operation_that_made_the_program() {
        let functions = [
            CREATE,
            ON_MESH,
            "tt::tt_metal::distributed::MeshWorkloadImpl::load_binaries(MeshCommandQueue&)",
            "ttnn::add(ttnn::Tensor const&, ttnn::Tensor const&)",
        ];
        assert_eq!(origins(&functions)[0], Origin::Program);
    }

    #[test]
    fn without_a_stack_the_type_of_memory_may_give_the_origin() {
        let of = |buffer_type| BOTH.map(|ownership| origin(buffer_type, ownership, None));
        assert_eq!(of(BufferType::Trace), [Origin::Trace, Origin::Unknown]);
        assert_eq!(of(BufferType::SystemMemory), [Origin::System; 2]);
        assert_eq!(of(BufferType::Dram), [Origin::Unknown; 2]);
    }

    #[test]
    fn without_a_matching_rule_the_origin_is_unknown() {
        assert_eq!(origins(&[CREATE, ON_MESH, "main"])[0], Origin::Unknown);
        assert_eq!(origins(&[]), [Origin::Unknown; 2]);
        let python = Frame {
            kind: FrameKind::Python,
            ..native("MeshWorkload::load_binaries")
        };
        let stack = Stack {
            frames: vec![python],
            broken: None,
        };
        let known = origin(BufferType::Dram, Ownership::Owning, Some(&stack));
        assert_eq!(known, Origin::Unknown);
    }
}
