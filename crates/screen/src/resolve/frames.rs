//! Frames: which of the variables around an expression go into what it stands for.
//!
//! Frames have serials in the order in which they are made. Whatever looks into one says so, also where it finds
//! nothing there. What took none from before its beginning is the same in every call and round, and is worked out
//! once.

use super::Resolver;
use crate::bindings::ScopeId;
use crate::value::{Cx, OUTSIDE};

/// When something began to be worked out, as far as frames go: what frames there were, and the first one that had
/// gone into what is around it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Began {
    frames: u64,
    around: u64,
}

impl<'a> Resolver<'a> {
    /// The serial of a frame that is about to be made.
    pub(crate) fn frame(&mut self) -> u64 {
        self.frames += 1;
        self.frames
    }

    /// Says that a frame goes into whatever is being worked out.
    pub(crate) fn takes(&mut self, frame: u64) {
        self.first = self.first.min(frame);
    }

    /// Says that something is being worked out whose frames are asked for.
    pub(super) fn begins(&mut self) -> Began {
        Began {
            frames: self.frames,
            around: std::mem::replace(&mut self.first, OUTSIDE),
        }
    }

    /// The first frame from before its beginning that went into what is worked out now; it goes into what is around
    /// that, too.
    pub(super) fn took(&mut self, began: Began) -> u64 {
        let own = if self.first > began.frames {
            OUTSIDE
        } else {
            self.first
        };
        self.first = began.around.min(own);
        own
    }

    /// The same place without frames that say nothing about a scope: what is bound there can then be
    /// remembered.
    pub(super) fn without_foreign(&self, cx: &Cx<'a>, scope: ScopeId) -> Cx<'a> {
        if self.inside_of(cx, scope) {
            return cx.clone();
        }
        Cx::at(cx.scope)
    }

    /// A scope within the frames around a place, as far as they say something about it.
    pub(super) fn place(&self, scope: ScopeId, cx: &Cx<'a>) -> Cx<'a> {
        if cx.env.is_some() && self.inside_of(cx, scope) {
            let env = cx.env.clone();
            return Cx { scope, env };
        }
        Cx::at(scope)
    }

    /// Whether a frame around a place says something about a scope or one around that.
    pub(super) fn inside_of(&self, cx: &Cx<'a>, scope: ScopeId) -> bool {
        let mut frame = cx.env.as_ref();
        while let Some(inner) = frame {
            let mut at = Some(scope);
            while let Some(id) = at {
                if id == inner.scope {
                    return true;
                }
                at = self.bindings.scope(id).and_then(|scope| scope.parent);
            }
            frame = inner.parent.as_ref();
        }
        false
    }
}
