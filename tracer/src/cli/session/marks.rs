//! Marks: set between two events, and told at once.

use super::{super::marks::MarkRequest, Session};

impl Session {
    /// A moment is to be marked: at the next [`fetch`](Self::fetch), after what has happened by then.
    pub fn want_mark(&mut self, request: MarkRequest) {
        self.marks.push(request);
    }

    /// Sets the marks that are wanted, unless what processes held before is still being read: that belongs
    /// before them.
    pub(super) fn set_marks(&mut self) {
        if self.before.is_reading() {
            return;
        }
        for request in std::mem::take(&mut self.marks) {
            let set = self.books.mark(request.name.clone(), self.clock.now());
            self.books.output.say(&set);
            let stacks = self.stacks.named(&self.books.stacks_since_last_mark());
            let change = self.books.change_at_last_mark(&stacks);
            if !change.is_empty() {
                self.books.output.say(change.trim_end());
            }
            request.answer(&format!("{set}\n{change}"));
        }
        self.books.output.flush();
    }
}
