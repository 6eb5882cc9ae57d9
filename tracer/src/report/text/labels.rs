//! The label of each stack of a process, safe to print.

use std::collections::BTreeMap;

use super::format::printable;
use crate::{
    frame::{Stack, StackId},
    origin::Origin,
    report::{
        frame_label::{labels, labels_with_callers},
        summary::{Group, StackSummary},
    },
};

/// Stands for the stack of buffers that were live at attach.
pub(super) const BEFORE_ATTACH: &str = "allocated before attach";

/// The labels of a process's stacks.
pub(super) struct Labels(BTreeMap<StackId, String>);

impl Labels {
    pub(super) fn new(stacks: &[StackSummary]) -> Self {
        Self::printable(labels(stacks.iter().map(|stack| (stack.id, &stack.stack))))
    }

    /// Labels with at least one caller each.
    pub(super) fn with_callers<'a>(stacks: impl IntoIterator<Item = (StackId, &'a Stack)>) -> Self {
        Self::printable(labels_with_callers(stacks))
    }

    fn printable(labels: BTreeMap<StackId, String>) -> Self {
        let labels = labels.into_iter();
        Self(labels.map(|(id, label)| (id, printable(&label))).collect())
    }

    /// The stack of a group, with its origin.
    pub(super) fn group(&self, group: &Group) -> String {
        if group.before_attach {
            return BEFORE_ATTACH.to_owned();
        }
        with_origin(self.stack(group.stack), group.origin)
    }

    pub(super) fn stack(&self, stack: Option<StackId>) -> String {
        let label = stack.and_then(|id| self.0.get(&id));
        label
            .map_or("stack not captured", String::as_str)
            .to_owned()
    }
}

/// Appends the origin, unless that is a tensor or unknown.
pub(super) fn with_origin(label: String, origin: Origin) -> String {
    match origin {
        Origin::Tensor | Origin::Unknown => label,
        origin => format!("{label} ({origin})"),
    }
}
