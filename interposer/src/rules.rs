//! Unwind rules by return address: where a frame keeps its caller's address and frame pointer, learned from framehop once.
//!
//! Why that is exact. A step outwards is framehop's rule for the return address, applied to sp, bp and the stack. A DWARF rule finds the
//! frame at a fixed distance from one register, sp or bp, takes the return address from the word below the frame's end, and bp as it
//! is or from a word at a fixed distance. Such a rule is told by the return address alone, for as long as the module's tables are
//! what they are ([`crate::modules::table_generation`]); whatever has another form (signal frames, functions that keep their frame in
//! another register, code without tables) is no rule here, and framehop is asked each time.
//!
//! Whether a step has that form is seen, not assumed: it is taken three times, with its registers, with another bp, and with another sp
//! ([`Rule::of`]). Where another bp changes nothing but the bp that is handed on, the frame is found by sp; where another sp changes
//! nothing, by bp.

use crate::arena;
use crate::unwind::Registers;

/// Places at first, 16 bytes each …
const FIRST: usize = 1024;
/// … and at most, where too many addresses share one.
const MOST: usize = 4096;
/// So many rules may lie elsewhere than in their own place, and one of so many.
const FEW: u32 = 4;
const ONE_OF: u32 = 16;
const WAYS: usize = 4;

/// How a frame is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Base {
    /// From sp.
    Sp = 0,
    /// From bp.
    Bp = 1,
    /// The stack ends here.
    End = 2,
    /// Go code: its callers are found by frame pointers ([`crate::golang`]).
    Go = 3,
    /// No entry.
    None = 4,
}

/// Where in [`Rule::key`] the base stands: above every address of code.
const BASE_SHIFT: u32 = 56;

/// The rule of one return address. 16 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Rule {
    /// The return address, and in the top byte the base: for a frame that is found by sp the address alone, so that one look tells both.
    key: u64,
    /// Where the caller's return address lies, in bytes from the base: a multiple of 8. The caller's sp is right behind it.
    pub caller_at: i32,
    /// Where the caller's bp lies, in words from the base; [`HANDED_ON`]: it is bp.
    pub bp_at: i16,
    /// Index of the frame's module record + 1.
    pub module: u16,
}

const _: () = assert!(size_of::<Rule>() == 16, "16 KiB a thread at first");

/// See [`Rule::bp_at`].
pub const HANDED_ON: i16 = i16::MIN;

/// Words below sp that a function may use.
const RED_ZONE: i16 = 16;

/// Words that a step may read and still be a rule.
const READS: usize = 2;

/// The words that a step reads, in order.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Reads {
    words: [(u64, u64); READS],
    count: usize,
}

impl Reads {
    /// A word was read: address and value.
    #[inline(always)]
    pub fn note(&mut self, address: u64, value: u64) {
        if let Some(word) = self.words.get_mut(self.count) {
            *word = (address, value);
        }
        self.count += 1;
    }

    fn all(&self) -> Option<&[(u64, u64)]> {
        self.words.get(..self.count)
    }
}

/// What a step gave: the caller's registers, `None` where the stack ends; and what it read.
pub type Taken = Result<(Option<Registers>, Reads), ()>;

impl Rule {
    /// `None` for what is no address of code.
    fn new(pc: u64, base: Base, caller_at: i32, bp_at: i16, module: u16) -> Option<Self> {
        (pc >> BASE_SHIFT == 0).then_some(Self { key: pc | (base as u64) << BASE_SHIFT, caller_at, bp_at, module })
    }

    /// Of `pc`, and the frame is found by sp.
    #[inline(always)]
    pub fn is_by_sp(&self, pc: u64) -> bool {
        self.key == pc
    }

    /// Of `pc`, and the frame is found by bp.
    #[inline(always)]
    pub fn is_by_bp(&self, pc: u64) -> bool {
        self.key == pc | (Base::Bp as u64) << BASE_SHIFT
    }

    /// Of `pc`, and the stack ends there.
    #[inline(always)]
    pub fn is_end(&self, pc: u64) -> bool {
        self.key == pc | (Base::End as u64) << BASE_SHIFT
    }

    /// How the frame is found.
    #[inline(always)]
    pub fn base(&self) -> Base {
        match self.key >> BASE_SHIFT {
            0 => Base::Sp,
            1 => Base::Bp,
            2 => Base::End,
            3 => Base::Go,
            _ => Base::None,
        }
    }

    #[inline(always)]
    fn pc(&self) -> u64 {
        self.key & ((1 << BASE_SHIFT) - 1)
    }

    /// Of a return address in Go code of module record `module` - 1.
    pub fn of_go(pc: u64, module: u32) -> Option<Self> {
        let module = u16::try_from(module).ok().filter(|&module| module != 0)?;
        Self::new(pc, Base::Go, 0, 0, module)
    }

    /// The rule behind a step from `at` that gave `taken`, found out by steps from other registers; `None` where it has another form.
    pub fn of(at: Registers, module: u32, taken: &Taken, mut step: impl FnMut(Registers) -> Taken) -> Option<Self> {
        let &Ok((caller, reads)) = taken else { return None };
        let module = u16::try_from(module).ok().filter(|&module| module != 0)?;
        // No address of any stack, and different from the one in use in every bit.
        let other_bp = Registers { bp: !at.bp | 1 << 63, ..at };
        let Some(caller) = caller else {
            // A stack that ends without a look at anything ends here always.
            let always = reads.count == 0 && step(other_bp) == Ok((None, reads));
            return if always { Self::new(at.pc, Base::End, 0, 0, module) } else { None };
        };
        let words = reads.all()?;
        let caller_at = caller.sp.wrapping_sub(8);
        if !words.contains(&(caller_at, caller.pc)) {
            return None;
        }
        let bp_word = || words.iter().find(|word| word.0 != caller_at && word.1 == caller.bp).map(|word| word.0);
        let (base, from, bp_at) = match step(other_bp) {
            Ok((Some(other), other_reads))
                if other.pc == caller.pc && other.sp == caller.sp && other_reads == reads =>
            {
                let handed_on = other.bp == other_bp.bp;
                // Handed on or restored: nothing else.
                if handed_on != (caller.bp == at.bp && words.len() == 1) || !handed_on && other.bp != caller.bp {
                    return None;
                }
                (Base::Sp, at.sp, if handed_on { None } else { Some(bp_word()?) })
            }
            _ => {
                // A little lower: still inside the red zone of the frame in use.
                let other_sp = Registers { sp: at.sp.wrapping_sub(64), ..at };
                if step(other_sp) != *taken {
                    return None;
                }
                (Base::Bp, at.bp, Some(bp_word()?))
            }
        };
        let distance = |address: u64| {
            let bytes = address.wrapping_sub(from).cast_signed();
            (bytes % 8 == 0).then(|| i16::try_from(bytes / 8).ok()).flatten().filter(|&words| words != HANDED_ON)
        };
        let bp_at = match bp_at {
            None => HANDED_ON,
            Some(address) => distance(address)?,
        };
        let caller_at = distance(caller_at)?;
        // What a walk relies on ([`crate::walk`]): all lies between the red zone and the frame's end.
        if caller_at >= 0 && (bp_at == HANDED_ON || (-RED_ZONE..=caller_at).contains(&bp_at)) {
            Self::new(at.pc, base, 8 * i32::from(caller_at), bp_at, module)
        } else {
            None
        }
    }
}

/// A thread's rules. Each address has a place of its own, told by its low bits alone, where most are found at the first look, and a set
/// of four others, told by a hash: where addresses share their own place they do not drive each other out. Where too many do, the table
/// grows.
#[repr(C, align(64))]
pub struct Rules {
    first: [Rule; FIRST],
    /// The table in use, where it is larger. Never given back: a thread's state is not either.
    larger: *mut Rule,
    /// Its places less 1.
    mask: usize,
    /// Rules, and how many of them do not lie in their own place.
    count: u32,
    displaced: u32,
    /// Which of a set is overwritten next.
    turn: u8,
}

const EMPTY: Rule = Rule { key: (Base::None as u64) << BASE_SHIFT, caller_at: 0, bp_at: 0, module: 0 };

impl Rules {
    /// None.
    pub const fn new() -> Self {
        let (larger, mask) = (core::ptr::null_mut(), FIRST - 1);
        Self { first: [EMPTY; FIRST], larger, mask, count: 0, displaced: 0, turn: 0 }
    }

    /// Forgets everything.
    pub fn forget(&mut self) {
        (self.count, self.displaced) = (0, 0);
        self.all().fill(EMPTY);
    }

    fn all(&mut self) -> &mut [Rule] {
        // SAFETY: `mask + 1` rules, see `table`; nobody else has them.
        unsafe { core::slice::from_raw_parts_mut(self.table().cast_mut(), self.mask + 1) }
    }

    #[inline(always)]
    fn table(&self) -> *const Rule {
        if self.larger.is_null() { self.first.as_ptr() } else { self.larger }
    }

    #[inline(always)]
    fn at(&self, place: usize) -> &Rule {
        // SAFETY: masked into the table.
        unsafe { &*self.table().add(place & self.mask) }
    }

    /// An address's own place. A walk waits for every step from one frame's address to the next one's: hence no hash, and bits of which one
    /// instruction makes a distance in this table. Return addresses are at least five bytes apart and begin anywhere.
    #[inline(always)]
    fn place_of(&self, pc: u64) -> usize {
        (pc >> 1) as usize & self.mask
    }

    /// The first of its other places.
    #[inline(always)]
    fn set_of(&self, pc: u64) -> usize {
        (pc.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 48) as usize & self.mask & !(WAYS - 1)
    }

    /// What lies in the address's own place: its rule or another's.
    #[inline(always)]
    pub fn own(&self, pc: u64) -> &Rule {
        self.at(self.place_of(pc))
    }

    /// [`Rule::caller_at`] of [`Self::own`], by an address that is made of pc alone: see [`crate::walk`].
    #[inline(always)]
    pub fn own_caller_at(&self, pc: u64) -> i64 {
        #[cfg(target_arch = "x86_64")]
        {
            let at;
            // SAFETY: a load of 4 bytes from the rule at `place_of(pc)`, which is `doubled / 2`: 16 bytes each.
            unsafe {
                core::arch::asm!(
                    "movsxd {at}, dword ptr [{rules} + {doubled} * 8 + {field}]",
                    rules = in(reg) self.table(),
                    doubled = in(reg) pc & (2 * self.mask as u64),
                    field = const core::mem::offset_of!(Rule, caller_at),
                    at = lateout(reg) at,
                    options(pure, readonly, nostack, preserves_flags),
                );
            }
            at
        }
        #[cfg(not(target_arch = "x86_64"))]
        self.own(pc).caller_at.into()
    }

    /// The rule of a return address, if it is known.
    #[inline(always)]
    pub fn find(&self, pc: u64) -> Option<&Rule> {
        // An empty place is that of pc 0, and its base is none.
        let own = self.own(pc);
        if own.pc() == pc {
            return Some(own);
        }
        let set = self.set_of(pc);
        (set..set + WAYS).map(|place| self.at(place)).find(|rule| rule.pc() == pc)
    }

    /// Keeps a rule: in its own place, else in another one of its set, else instead of another.
    pub fn insert(&mut self, rule: Rule) {
        if self.displaced > FEW + self.count / ONE_OF && self.mask + 1 < MOST {
            self.grow();
        }
        self.put(rule);
    }

    fn put(&mut self, rule: Rule) {
        let (pc, set) = (rule.pc(), self.set_of(rule.pc()));
        let places = [self.place_of(pc), set, set + 1, set + 2, set + 3];
        let known = places.into_iter().find(|&place| self.at(place).pc() == pc);
        let free = || places.into_iter().find(|&place| self.at(place).base() == Base::None);
        let place = known.or_else(free).unwrap_or_else(|| {
            self.turn = self.turn.wrapping_add(1);
            set + usize::from(self.turn) % WAYS
        });
        if known.is_none() {
            self.count += 1;
            self.displaced += u32::from(place != places[0]);
        }
        let place = &mut self.all()[place];
        // Not found while it is half written, by a signal handler that jumps out of here.
        place.key = EMPTY.key;
        core::sync::atomic::compiler_fence(core::sync::atomic::Ordering::SeqCst);
        *place = Rule { key: EMPTY.key, ..rule };
        core::sync::atomic::compiler_fence(core::sync::atomic::Ordering::SeqCst);
        place.key = rule.key;
    }

    /// A table of twice the size; the old one stays where there is no memory.
    #[cold]
    fn grow(&mut self) {
        let places = 2 * (self.mask + 1);
        let bytes = places * size_of::<Rule>();
        self.displaced = 0;
        if !arena::has_room(bytes as u64 + (1 << 20)) {
            return;
        }
        let larger = arena::take(bytes, 64).cast::<Rule>();
        if larger.is_null() {
            return;
        }
        // SAFETY: fresh memory for so many rules, for good.
        unsafe { core::slice::from_raw_parts_mut(larger, places) }.fill(EMPTY);
        let (old, old_places) = (self.larger, self.mask + 1);
        // In this order: a signal handler that jumps out of here leaves no mask that is too large, and rules that are learned again at worst.
        self.larger = larger;
        core::sync::atomic::compiler_fence(core::sync::atomic::Ordering::SeqCst);
        self.mask = places - 1;
        self.count = 0;
        for place in 0..old_places {
            // SAFETY: inside the table that was in use.
            let rule = if old.is_null() { self.first[place] } else { unsafe { *old.add(place) } };
            if rule.base() != Base::None {
                self.put(rule);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: Registers = Registers { pc: 0x1234, sp: 0x7000, bp: 0x7100 };

    /// A stack whose words are their own addresses plus one.
    fn read(reads: &mut Reads, address: u64) -> u64 {
        reads.note(address, address + 1);
        address + 1
    }

    fn by_sp(at: Registers) -> Taken {
        let mut reads = Reads::default();
        let pc = read(&mut reads, at.sp + 40);
        Ok((Some(Registers { pc, sp: at.sp + 48, bp: at.bp }), reads))
    }

    fn by_sp_restoring_bp(at: Registers) -> Taken {
        let mut reads = Reads::default();
        let pc = read(&mut reads, at.sp + 40);
        let bp = read(&mut reads, at.sp + 32);
        Ok((Some(Registers { pc, sp: at.sp + 48, bp }), reads))
    }

    fn by_bp(at: Registers) -> Taken {
        if at.bp > 0x8000 {
            return Err(());
        }
        let mut reads = Reads::default();
        let pc = read(&mut reads, at.bp + 8);
        let bp = read(&mut reads, at.bp);
        Ok((Some(Registers { pc, sp: at.bp + 16, bp }), reads))
    }

    /// Its frame's end lies in a word of the stack, as a signal frame's does.
    fn by_a_word(at: Registers) -> Taken {
        let mut reads = Reads::default();
        let sp = read(&mut reads, at.sp + 8);
        let pc = read(&mut reads, at.sp + 16);
        Ok((Some(Registers { pc, sp, bp: at.bp }), reads))
    }

    fn rule(step: fn(Registers) -> Taken) -> Option<(i32, i16, Base)> {
        Rule::of(AT, 3, &step(AT), step).map(|rule| (rule.caller_at, rule.bp_at, rule.base()))
    }

    #[test]
    fn rules_are_told_by_what_changes_with_what() {
        assert_eq!(rule(by_sp), Some((40, HANDED_ON, Base::Sp)));
        assert_eq!(rule(by_sp_restoring_bp), Some((40, 4, Base::Sp)));
        assert_eq!(rule(by_bp), Some((8, 0, Base::Bp)));
        assert_eq!(rule(|_| Ok((None, Reads::default()))), Some((0, 0, Base::End)));
    }

    #[test]
    fn what_has_another_form_is_no_rule() {
        assert_eq!(rule(by_a_word), None);
        assert_eq!(rule(|_| Err(())), None);
        assert_eq!(Rule::of(AT, 0, &by_sp(AT), by_sp), None, "code in no module");
        // The distance depends on bp's value.
        assert_eq!(rule(|at| if at.bp & 1 == 0 { by_sp(at) } else { by_sp_restoring_bp(at) }), None);
        // A stack that ended because of what it read.
        assert_eq!(
            rule(|at| {
                let mut reads = Reads::default();
                read(&mut reads, at.sp);
                Ok((None, reads))
            }),
            None
        );
    }

    #[test]
    fn forgotten_rules_are_not_found() {
        let mut rules = Rules::new();
        let rule = Rule::of(AT, 3, &by_sp(AT), by_sp).unwrap();
        for _ in 0..600 {
            assert!(rules.find(AT.pc).is_none_or(|rule| rule.base() == Base::None));
            rules.insert(rule);
            assert_eq!(rules.find(AT.pc).map(|found| found.caller_at), Some(40));
            rules.forget();
        }
    }

    #[test]
    fn where_too_many_share_their_places_the_table_grows() {
        let mut rules = Rules::new();
        let like = |key: u64| Rule { key, ..Rule::of(AT, 3, &by_sp(AT), by_sp).unwrap() };
        let pcs = || (0..200u64).map(|number| 0x5000 + 64 * number);
        for pc in pcs() {
            rules.insert(like(pc));
        }
        assert_eq!(rules.mask + 1, MOST);
        let at_home = pcs().filter(|&pc| rules.own(pc) == &like(pc)).count();
        assert!(at_home > 120, "{at_home}");
        assert!(pcs().all(|pc| rules.find(pc) == Some(&like(pc))));
        rules.forget();
        assert!(pcs().all(|pc| rules.find(pc).is_none()));
    }

    #[test]
    fn rules_of_one_place_live_side_by_side() {
        let mut rules = Rules::new();
        let like = |key: u64| Rule { key, ..Rule::of(AT, 3, &by_sp(AT), by_sp).unwrap() };
        let (place, set) = (rules.place_of(AT.pc), rules.set_of(AT.pc));
        let like_it = |&pc: &u64| rules.place_of(pc) == place && rules.set_of(pc) == set;
        let shared: Vec<u64> = (1u64..).filter(like_it).take(7).collect();
        for &pc in &shared {
            rules.put(like(pc));
            rules.put(like(pc));
            assert_eq!(rules.find(pc), Some(&like(pc)));
        }
        let kept = shared.iter().filter(|&&pc| rules.find(pc).is_some()).count();
        assert_eq!(kept, 1 + WAYS);
        assert!(rules.find(shared[6]).is_some());
    }
}
