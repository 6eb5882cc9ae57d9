//! What a buffer is for, told from the functions on the stack of its birth.
//!
//! The rules name those functions of TT-Metal that create buffers. They were read from its sources and
//! held against the calls of `Buffer::create`, `BufferImpl::create` and `MeshBuffer::create` in the
//! machine code of the releases 0.62.2, 0.66.0, 0.77.0, 0.79.0 and 0.81.1, and of `_ttnncpp.so` where
//! that was at hand. What one of them makes on its way (a chip's share, a view to write through) is
//! non-owning and has rules of its own, so for the rest it counts that one of them is on the stack.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{
    cpp_name::{ends_in, qualified},
    ledger::{BufferType, Ownership},
    stack::{FrameKind, Stack},
};

/// What a buffer is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// A tensor's data: the application's memory.
    Tensor,
    /// A non-owning part of another buffer, or all of it by another name: a reshaped tensor, a slice.
    View,
    /// A chip's non-owning share of a mesh's buffer.
    MeshMember,
    /// The binaries of a program's kernels, and the program's own non-owning buffer there. They stay as
    /// long as the program is cached.
    Program,
    /// A captured trace, or another prepared list of commands.
    Trace,
    /// A global semaphore.
    Semaphore,
    /// A global circular buffer: its data or its configuration.
    GlobalCircularBuffer,
    /// The runtime's own: sockets and streams between host and devices or between meshes, and the
    /// host's memory that devices reach.
    System,
    /// No rule tells, for want of a stack or of a function on it that any of them knows.
    #[serde(other)]
    Unknown,
}

impl Origin {
    /// Every origin, in the order in which they are shown.
    pub const ALL: [Self; 9] = [
        Self::Tensor,
        Self::View,
        Self::MeshMember,
        Self::Program,
        Self::Trace,
        Self::Semaphore,
        Self::GlobalCircularBuffer,
        Self::System,
        Self::Unknown,
    ];

    /// Whether such a buffer, still live at its process's end, may be one that the application forgot.
    pub fn may_leak(self) -> bool {
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

/// What tells an origin.
enum Sign {
    /// A non-owning buffer, and this function the innermost on the stack of its birth.
    NonOwningAt(&'static str),
    /// A non-owning buffer, and one of these functions on the stack of its birth had it made: below it
    /// there are only [`MAKERS`].
    NonOwningBy(&'static [&'static str]),
    /// A non-owning buffer, and one of these functions on the stack of its birth.
    NonOwningIn(&'static [&'static str]),
    /// One of these functions on the stack of its birth.
    In(&'static [&'static str]),
    /// An owning buffer in this type of memory.
    OwningOf(BufferType),
    /// A buffer of either kind in this type of memory.
    Of(BufferType),
}

/// What makes any buffer, whatever for.
const MAKERS: [&str; 6] = [
    "Buffer::create",
    "BufferImpl::create",
    "MeshBuffer::create",
    "MeshBufferImpl::create",
    "MeshBuffer::initialize_device_buffers",
    "MeshBufferImpl::initialize_device_buffers",
];

/// The rules; the first that fits counts. A function is named by the end of its qualified name.
const RULES: [(Origin, Sign); 12] = [
    // Where only owning buffers come by: a member's birth has the stack of its mesh's buffer, if that
    // came right before it.
    (
        Origin::MeshMember,
        Sign::NonOwningAt("GraphTracker::track_allocate"),
    ),
    // Sub-regions, for reads and writes in parts.
    (
        Origin::View,
        Sign::NonOwningIn(&["Buffer::view", "BufferImpl::view"]),
    ),
    // Tensors that lie in another one's memory: a mesh's buffer at that address, which is nothing but
    // its members. `reshape`, `slice` and others come to the first, or make a tensor of their own.
    (
        Origin::View,
        Sign::NonOwningBy(&[
            "tt_metal::view",
            "(anonymous namespace)::view_device",
            "ttnn::experimental::view",
            "ttnn::narrow",
        ]),
    ),
    // One for each member, at the address of the mesh's own buffer. In `create` where the compiler
    // inlined the other.
    (
        Origin::MeshMember,
        Sign::NonOwningIn(&[
            "MeshBuffer::initialize_device_buffers",
            "MeshBufferImpl::initialize_device_buffers",
            "MeshBuffer::create",
        ]),
    ),
    // When a program is first enqueued; the mesh's, then (up to slow dispatch) a chip's.
    (
        Origin::Program,
        Sign::In(&[
            "MeshWorkload::load_binaries",
            "MeshWorkloadImpl::load_binaries",
            "ProgramImpl::allocate_kernel_bin_buf_on_device",
            "Program::allocate_kernel_bin_buf_on_device",
        ]),
    ),
    // Also in DRAM, if a device has no trace region.
    (
        Origin::Trace,
        Sign::In(&[
            "MeshTrace::populate_mesh_buffer",
            "Trace::initialize_buffer",
            "CommandListBuilderImpl::allocate_and_commit",
        ]),
    ),
    (
        Origin::Semaphore,
        Sign::In(&[
            "GlobalSemaphore::setup_buffer",
            "GlobalSemaphoreImpl::setup_buffer",
        ]),
    ),
    // The cross-node dataflow buffer is its successor.
    (
        Origin::GlobalCircularBuffer,
        Sign::In(&[
            "GlobalCircularBuffer::setup_cb_buffers",
            "GlobalCircularBufferImpl::setup_cb_buffers",
            "CrossNodeDFB::setup_buffers",
            "CrossNodeDFB::allocate_config_buffer",
        ]),
    ),
    (
        Origin::System,
        Sign::In(&[
            "create_socket_config_buffer",
            "create_socket_data_buffer",
            "H2DSocket::init_config_buffer",
            "H2DSocket::init_data_buffer",
            "D2HSocket::init_config_buffer",
            "H2DStreamService::H2DStreamService",
            "D2HStreamService::D2HStreamService",
        ]),
    ),
    // The others call the first one, and are what is left where a compiler inlines it.
    (
        Origin::Tensor,
        Sign::In(&[
            "tensor_impl::allocate_device_buffer",
            "tt_metal::create_device_tensor",
            "tt_metal::allocate_mesh_tensor_on_device_with_topology",
        ]),
    ),
    // Only traces lie there. A non-owning one is a member's or a view, but nobody knows which.
    (Origin::Trace, Sign::OwningOf(BufferType::Trace)),
    // The host's huge pages: the command queues'.
    (Origin::System, Sign::Of(BufferType::SystemMemory)),
];

/// What a buffer is for, as far as its type, whether it owns memory, and the stack of its birth tell.
pub fn origin(buffer_type: BufferType, ownership: Ownership, stack: Option<&Stack>) -> Origin {
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
    let among = |functions: &[&str]| names.iter().any(|name| is_one_of(name, functions));
    let had_it_made = names.iter().find(|name| !is_one_of(name, &MAKERS));
    let owning = ownership == Ownership::Owning;
    let rule = RULES.iter().find(|(_, sign)| match sign {
        Sign::NonOwningAt(function) => {
            !owning && names.first().is_some_and(|name| ends_in(name, function))
        }
        Sign::NonOwningBy(functions) => {
            !owning && had_it_made.is_some_and(|name| is_one_of(name, functions))
        }
        Sign::NonOwningIn(functions) => !owning && among(functions),
        Sign::In(functions) => among(functions),
        Sign::OwningOf(memory) => owning && buffer_type == *memory,
        Sign::Of(memory) => buffer_type == *memory,
    });
    rule.map_or(Origin::Unknown, |(origin, _)| *origin)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stack::Frame;

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

    /// What an owning and a non-owning buffer are for that are born under these functions.
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

    /// As on the stacks of 0.81.1, 0.77.0 and of both where what can be inlined is.
    #[test]
    fn a_tensor_in_anothers_memory() {
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
    fn a_tensor_that_is_made_because_it_cant_lie_in_anothers_memory() {
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
    fn a_member_with_the_stack_of_its_meshs_buffer() {
        let track = "tt::tt_metal::GraphTracker::track_allocate(tt::tt_metal::Buffer const*)";
        let tensor =
            "tt::tt_metal::tensor_impl::allocate_device_buffer(tt::tt_metal::TensorSpec const&)";
        let setup = "tt::tt_metal::GlobalSemaphoreImpl::setup_buffer(BufferType)";
        for (functions, of_mesh) in [
            // Also where a compiler inlined what is between.
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
            // On each member, too.
            assert_eq!(
                origins(&[CREATE, MEMBERS, ON_MESH, function])[1],
                Origin::MeshMember
            );
        }
    }

    #[test]
    fn a_trace() {
        for function in [
            "tt::tt_metal::distributed::MeshTrace::populate_mesh_buffer(MeshCommandQueue&)",
            "tt::tt_metal::Trace::initialize_buffer()",
            "tt::tt_metal::experimental::detail::CommandListBuilderImpl::allocate_and_commit() const",
        ] {
            assert_eq!(origins(&[CREATE, ON_MESH, function])[0], Origin::Trace);
        }
    }

    #[test]
    fn a_global_semaphore() {
        for function in [
            "tt::tt_metal::GlobalSemaphore::setup_buffer(unsigned int, BufferType)",
            "tt::tt_metal::GlobalSemaphoreImpl::setup_buffer(std::optional<unsigned int>, BufferType)",
        ] {
            assert_eq!(origins(&[CREATE, ON_MESH, function])[0], Origin::Semaphore);
        }
    }

    #[test]
    fn a_global_circular_buffer() {
        for function in [
            "tt::tt_metal::experimental::GlobalCircularBuffer::setup_cb_buffers(BufferType)",
            "tt::tt_metal::experimental::GlobalCircularBufferImpl::setup_cb_buffers(BufferType)",
            "tt::tt_metal::experimental::CrossNodeDFB::setup_buffers(BufferType)",
            "tt::tt_metal::experimental::CrossNodeDFB::allocate_config_buffer(BufferType)",
        ] {
            assert_eq!(
                origins(&[CREATE, ON_MESH, function])[0],
                Origin::GlobalCircularBuffer
            );
        }
    }

    #[test]
    fn the_runtimes_own() {
        for function in [
            "tt::tt_metal::distributed::create_socket_config_buffer(SocketConfig const&)",
            "tt::tt_metal::distributed::create_socket_data_buffer(SocketConfig const&)",
            "tt::tt_metal::distributed::H2DSocket::init_config_buffer(MeshDevice const&)",
            "tt::tt_metal::distributed::H2DSocket::init_data_buffer(MeshDevice const&, unsigned int)",
            "tt::tt_metal::distributed::D2HSocket::init_config_buffer(MeshDevice const&)",
            "tt::tt_metal::H2DStreamService::H2DStreamService(MeshDevice const&)",
            "tt::tt_metal::D2HStreamService::D2HStreamService(MeshDevice const&)",
        ] {
            assert_eq!(origins(&[CREATE, ON_MESH, function])[0], Origin::System);
        }
    }

    #[test]
    fn an_operation_that_makes_a_program_makes_no_tensor_by_that() {
        let functions = [
            CREATE,
            ON_MESH,
            "tt::tt_metal::distributed::MeshWorkloadImpl::load_binaries(MeshCommandQueue&)",
            "ttnn::add(ttnn::Tensor const&, ttnn::Tensor const&)",
        ];
        assert_eq!(origins(&functions)[0], Origin::Program);
    }

    #[test]
    fn without_a_stack_the_type_of_memory_may_tell() {
        let of = |buffer_type| BOTH.map(|ownership| origin(buffer_type, ownership, None));
        assert_eq!(of(BufferType::Trace), [Origin::Trace, Origin::Unknown]);
        assert_eq!(of(BufferType::SystemMemory), [Origin::System; 2]);
        assert_eq!(of(BufferType::Dram), [Origin::Unknown; 2]);
    }

    #[test]
    fn what_no_rule_knows_is_unknown() {
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
