//! A stack frame by frame: by rules where there are some, by framehop where not, from which rules are learned; Go's part by frame pointers.

use core::sync::atomic::Ordering;

use super::{Captured, DEPTH, LEARNS_RULES, NEEDED, Registers, Unwinding};
use crate::golang::GoWalk;
use crate::known::Known;
use crate::rules::{Base, HANDED_ON, Rule};
use crate::segment::Segment;
use crate::step::{Remembered, step};
use crate::{modules, oracle};

impl Unwinding {
    /// With `verify`: a stack is followed once more, frame by frame by framehop alone, and by the `backtrace` crate.
    #[cold]
    pub(super) fn verify_trace(&mut self, segment: &Segment, start: Registers, known: Known) {
        let Captured { depth, .. } = self.capture(segment, start, None, false);
        let differs = |id: u32, frame: usize| {
            let node = segment.node(id);
            node.pc.load(Ordering::Relaxed) != self.frames[frame].pc
                || node.module.load(Ordering::Relaxed) != self.modules[frame]
        };
        let mut id = known.node;
        let mut same = true;
        for frame in 0..depth {
            same &= !differs(id, frame);
            id = segment.node(id).parent.load(Ordering::Relaxed);
        }
        let in_c = self.modules[..depth].iter().zip(&self.frames).position(|(&number, at)| is_go(number, at.pc));
        same &= id == 0 && oracle::agrees(start.pc, &self.frames[..in_c.unwrap_or(depth)], in_c.is_none());
        segment.header().verified_stacks.fetch_add(1, Ordering::Relaxed);
        if !same {
            segment.header().verify_differences.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// One frame outwards by its rule, on the thread's own stack; pc 0 where the stack ends. `None`: there is no rule, or it leads off the
    /// stack.
    #[inline(always)]
    pub(super) fn caller_of(&self, at: &Registers) -> Option<Registers> {
        self.apply(self.rules.find(at.pc)?, at)
    }

    #[inline(always)]
    pub(super) fn apply(&self, rule: &Rule, at: &Registers) -> Option<Registers> {
        let base = match rule.base() {
            Base::Sp => at.sp,
            Base::Bp => at.bp,
            Base::End => return Some(Registers { pc: 0, sp: at.sp, bp: at.bp }),
            Base::Go | Base::None => return None,
        };
        let caller_at = base.wrapping_add_signed(i64::from(rule.caller_at));
        let lowest = at.sp.wrapping_sub(128).max(self.own.start);
        let inside = |address: u64| lowest <= address && address.wrapping_add(8) <= self.own.end && address & 7 == 0;
        // The frame in use is mapped: above it, up to the end of the thread's own stack, all is.
        if !inside(at.sp) || !inside(caller_at) || caller_at.wrapping_add(8) <= at.sp {
            return None;
        }
        let bp = if rule.bp_at == HANDED_ON {
            at.bp
        } else {
            let bp_at = base.wrapping_add_signed(8 * i64::from(rule.bp_at));
            if !inside(bp_at) {
                return None;
            }
            // SAFETY: aligned, and inside this thread's own stack.
            unsafe { *(bp_at as *const u64) }
        };
        // SAFETY: as above.
        Some(Registers { pc: unsafe { *(caller_at as *const u64) }, sp: caller_at + 8, bp })
    }

    /// Fills `frames` and `modules`, innermost first, up to the stack's end or to the known `outer` part, which begins at a depth and has a
    /// node. `remembering` nothing, framehop is asked for every frame.
    pub(super) fn capture(
        &mut self,
        segment: &Segment,
        start: Registers,
        outer: Option<(usize, u32)>,
        remembering: bool,
    ) -> Captured {
        let mut at = start;
        let mut captured = Captured { depth: 0, outer: 0, by_rules: true, hash: self.seed };
        if at.sp.wrapping_sub(self.low) < NEEDED {
            // Almost at the end of a small stack: the caller is all that can be had without using it up.
            segment.header().stacks_without_room.fetch_add(1, Ordering::Relaxed);
            (self.frames[0], self.modules[0]) = (at, 0);
            return Captured { depth: 1, by_rules: false, ..captured };
        }
        loop {
            let depth = captured.depth;
            if let Some((_, node)) = outer.filter(|&(from, _)| from == depth && captured.by_rules) {
                return Captured { outer: node, hash: captured.hash.with(u64::from(node)), ..captured };
            }
            self.frames[depth] = at;
            captured.hash = captured.hash.with(at.pc);
            let known = match self.rules.find(at.pc) {
                Some(rule) if rule.base() == Base::Go => {
                    let number = u32::from(rule.module);
                    return self.follow_go(segment, number, at, captured, remembering);
                }
                Some(rule) if remembering => self.apply(rule, &at).map(|caller| (rule.module, caller)),
                _ => None,
            };
            let caller = match known {
                Some((module, caller)) => {
                    self.modules[depth] = u32::from(module);
                    Ok((caller.pc != 0).then_some(caller))
                }
                None => {
                    if modules::is_any_go()
                        && let Some(number) = self.enter_go(at.pc)
                    {
                        return self.follow_go(segment, number, at, captured, remembering);
                    }
                    captured.by_rules = false;
                    self.step_anew(depth, at, remembering)
                }
            };
            captured.depth += 1;
            match caller {
                Ok(Some(_)) if captured.depth == DEPTH => {
                    if remembering {
                        segment.header().stacks_truncated.fetch_add(1, Ordering::Relaxed);
                    }
                    return Captured { by_rules: false, ..captured };
                }
                Ok(Some(caller)) => at = caller,
                Ok(None) => return captured,
                Err(()) => {
                    if remembering {
                        segment.header().unwind_failures.fetch_add(1, Ordering::Relaxed);
                    }
                    return Captured { by_rules: false, ..captured };
                }
            }
        }
    }

    /// The module record + 1 of Go code at `pc`; remembered as a rule.
    #[cold]
    fn enter_go(&mut self, pc: u64) -> Option<u32> {
        let module =
            modules::find(pc.wrapping_sub(1)).filter(|module| (module.go.0..module.go.1).contains(&(pc - 1)))?;
        self.rules.insert(Rule::of_go(pc, module.index + 1)?);
        Some(module.index + 1)
    }

    /// The rest of a stack, from Go code of module record `number` - 1 on; the first frame of it is noted already.
    fn follow_go(
        &mut self,
        segment: &Segment,
        number: u32,
        start: Registers,
        captured: Captured,
        remembering: bool,
    ) -> Captured {
        let mut captured = captured;
        let mut go = GoWalk::new(modules::go_code(number), self.own, &start, self.lookups_left > 0);
        self.modules[captured.depth] = number;
        captured.depth += 1;
        let mut at = start;
        while let Some(caller) = go.caller(&at) {
            if captured.depth == DEPTH {
                if remembering {
                    segment.header().stacks_truncated.fetch_add(1, Ordering::Relaxed);
                }
                captured.by_rules = false;
                break;
            }
            self.frames[captured.depth] = caller;
            self.modules[captured.depth] = number;
            captured.hash = captured.hash.with(caller.pc);
            captured.depth += 1;
            at = caller;
        }
        self.lookups_left = self.lookups_left.saturating_sub(u32::from(go.has_learned()));
        captured
    }

    /// One frame outwards by framehop; a rule is learned from it.
    #[inline(never)]
    fn step_anew(&mut self, depth: usize, at: Registers, learning: bool) -> Result<Option<Registers>, ()> {
        let module = modules::find(at.pc.wrapping_sub(1));
        let number = module.map_or(0, |module| module.index + 1);
        self.modules[depth] = number;
        let range = self.range_of(at.sp);
        let tables = module.map_or(&self.no_tables, |module| &module.tables);
        let (taken, whole) = step(&mut self.framehop, tables, at, range);
        if !whole {
            // Where a word cannot be read framehop falls back to frame pointers, and keeps that for the address.
            self.framehop = Remembered::new_in();
        }
        if learning
            && LEARNS_RULES
            && range.own
            && let Some(rule) = Rule::of(at, number, &taken, |other| step(&mut self.tried, tables, other, range).0)
        {
            self.rules.insert(rule);
        }
        let (caller, _) = taken?;
        // Outwards is upwards, but for a change of stacks.
        Ok(caller.filter(|caller| !(range.holds(caller.sp.wrapping_sub(8)) && caller.sp <= at.sp)))
    }
}

/// `pc` is a return address in Go code of module record `number` - 1.
fn is_go(number: u32, pc: u64) -> bool {
    let code = modules::go_code(number);
    (code.0..code.1).contains(&pc.wrapping_sub(1))
}
