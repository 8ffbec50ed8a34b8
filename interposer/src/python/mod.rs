//! Python's callers: the stack of a C call is joined with the functions of the interpreter that led to it.
//!
//! How. The interpreter runs many Python functions in one C frame, `_PyEval_EvalFrameDefault`; what runs is a chain of its own frames
//! that begins in the thread's state. A stack that FFmpeg's code is on and that goes through the interpreter is followed by that chain: code
//! object and instruction of each frame make a number, and (stack, number) is looked up; what is new is named by [`code`] and interned as
//! nodes of another kind between those of the interpreter's C frames, a C frame for each time that the interpreter was entered.
//!
//! Why that is safe. No code of Python's runs but PyGILState_GetThisThreadState, which reads a thread-specific pointer (no lock, no
//! allocation, no need of the global lock). The thread's state and the chain belong to the thread that reads them, which stands in the
//! middle of a call from them: the interpreter's C frames are on its stack. That is checked first; so a state that another
//! thread may delete, because its own is outside Python, is never touched. The one time when states vanish under running threads is the
//! interpreter's end: nothing is read once it has begun (`_finalizing`), but by the thread that ends it. Code objects are held by their
//! frames; what they point to is read through the kernel, once.
//!
//! Hosts without Python pay one load for each of FFmpeg's blocks.

mod code;
mod offsets;

use core::sync::atomic::{AtomicU64, Ordering};

use avleak_wire::layout::{MAX_NODES, NODE_PYTHON, TEXT_BYTES, TEXT_FILE_BYTES, TEXT_NAME_BYTES};

use crate::elf::{Dynamic, Layout};
use crate::hot::HOT;
use crate::intern::{self, StackFrame};
use crate::known::Known;
use crate::known::StackHash;
use crate::segment::Segment;
use crate::unwind::DEPTH;
use crate::{arena, modules, sys};
use code::Types;
use offsets::{OWNED_BY_INTERPRETER, Offsets};

/// The interpreter of this process.
pub struct Interpreter {
    /// Index of its module's record + 1.
    module: u32,
    version: u32,
    /// `None`: its frames cannot be read.
    offsets: Option<Offsets>,
    runtime: u64,
    /// `_PyEval_EvalFrameDefault`: first byte, and one past its last.
    eval: (u64, u64),
    /// PyGILState_GetThisThreadState.
    this_thread: unsafe extern "C" fn() -> u64,
    types: Types,
    /// `PyType_Type`: for the analyzer.
    metatype: u64,
}

/// A module was met; record `index`. Is it a Python? Under the modules' lock.
pub fn met(layout: &Layout, dynamic: &Dynamic, index: u32, segment: &Segment) {
    let Some((runtime, _)) = dynamic.find_sized(c"_PyRuntime") else { return };
    if HOT.interpreter.load(Ordering::Relaxed).is_null() {
        if !arena::has_room(1 << 20) {
            return;
        }
        if let Some(found) = interpreter(layout, dynamic, index, runtime) {
            HOT.interpreter.store(Box::into_raw(Box::new(found)), Ordering::Release);
        }
    }
    say(segment);
}

/// Tells the analyzer which Python there is; again after a fork, in the child's segment.
pub fn say(segment: &Segment) {
    // SAFETY: null, or an interpreter, which is never freed.
    if let Some(python) = unsafe { HOT.interpreter.load(Ordering::Acquire).as_ref() } {
        let header = segment.header();
        header.python_readable.store(u32::from(python.offsets.is_some()), Ordering::Relaxed);
        header.python_type.store(python.metatype, Ordering::Relaxed);
        header.python_version.store(python.version, Ordering::Release);
    }
}

fn interpreter(layout: &Layout, dynamic: &Dynamic, index: u32, runtime: u64) -> Option<Interpreter> {
    let word = |at: u64| {
        let mut bytes = [0; 8];
        (sys::read_self(at, &mut bytes) == 8).then_some(u64::from_le_bytes(bytes))
    };
    // 3.11 is the first that says its version so, and the first of which the frames are known.
    let version = dynamic.find(c"Py_Version").and_then(word).map_or(0, |version| version as u32);
    let (eval, bytes) = dynamic.find_sized(c"_PyEval_EvalFrameDefault")?;
    let this_thread = dynamic.find(c"PyGILState_GetThisThreadState")?;
    let inside = |address: u64| (layout.start..layout.end).contains(&address);
    if !inside(eval) || !inside(this_thread) || !inside(runtime) {
        return None;
    }
    Some(Interpreter {
        module: index + 1,
        // A Python without the symbol is older.
        version: if version == 0 { 0x0300_0000 } else { version },
        offsets: offsets::of(version, |index| word(runtime + 8 * index)),
        runtime,
        eval: (eval, eval.saturating_add(bytes)),
        // SAFETY: the function of this name in a module that defines _PyRuntime, with its documented signature.
        this_thread: unsafe { core::mem::transmute::<u64, unsafe extern "C" fn() -> u64>(this_thread) },
        types: Types {
            code: dynamic.find(c"PyCode_Type")?,
            text: dynamic.find(c"PyUnicode_Type")?,
            bytes: dynamic.find(c"PyBytes_Type")?,
        },
        metatype: dynamic.find(c"PyType_Type").unwrap_or(0),
    })
}

/// One Python function that runs.
#[derive(Clone, Copy, Default)]
struct Call {
    code: u64,
    instruction: u64,
    /// Two of the code object's pointers: another one at the same address would have others.
    identity: u64,
    /// The interpreter was entered for it: C frames lie further out.
    entered: bool,
}

const JOINED: usize = 1024;
const NAMED: usize = 512;
const KINDS: usize = 512;

/// What a thread remembers of Python's callers. All zero: nothing.
struct Memory {
    /// By stack: 1 + whether the interpreter is on it.
    kinds: [(u32, u32); KINDS],
    /// (hash of stack and Python's frames, their joint stack, the stack).
    joined: [(u64, u32, u32); JOINED],
    /// (hash of a call, its node's pc).
    named: [(u64, u64); NAMED],
    calls: [Call; DEPTH],
    frames: [StackFrame; DEPTH],
    merged: [StackFrame; DEPTH],
}

/// A thread's own part, made when the thread first needs it.
pub struct Python {
    memory: *mut Memory,
    /// Of the module tables: what is remembered belongs to it.
    generation: u64,
}

impl Python {
    /// Nothing yet.
    pub const fn new() -> Self {
        Self { memory: core::ptr::null_mut(), generation: 0 }
    }

    /// The stack with Python's functions between its C frames; as it is where there are none, or they cannot be read.
    #[inline(always)]
    pub fn join(&mut self, segment: &Segment, known: Known) -> Known {
        let python = HOT.interpreter.load(Ordering::Acquire);
        if python.is_null() || known.node == 0 {
            return known;
        }
        // SAFETY: an interpreter, which is never freed.
        self.join_with(unsafe { &*python }, segment, known)
    }

    #[inline(never)]
    fn join_with(&mut self, python: &Interpreter, segment: &Segment, known: Known) -> Known {
        let Some(offsets) = &python.offsets else { return known };
        let Some(memory) = self.memory() else { return known };
        let generation = modules::table_generation();
        if self.generation != generation {
            // Other code may lie there now.
            self.generation = generation;
            memory.kinds = [(0, 0); KINDS];
            memory.joined = [(0, 0, 0); JOINED];
        }
        if !memory.is_interpreted(python, segment, known.node) {
            return known;
        }
        // SAFETY: the interpreter's C frames are on this thread's stack: its code is there. The function takes nothing and reads a
        // thread-specific pointer.
        let state = unsafe { (python.this_thread)() };
        if state == 0 || state & 7 != 0 || is_ending(python, offsets, state) {
            return known;
        }
        let Some((count, hash)) = follow(offsets, state, &mut memory.calls) else { return known };
        let hash = hash.with(u64::from(known.node)).value();
        let place = hash as usize % JOINED;
        let (joined_hash, node, from) = memory.joined[place];
        if joined_hash == hash && from == known.node && node != 0 {
            return Known { node, ..known };
        }
        let Some(node) = memory.merge(python, offsets, segment, known.node, count) else { return known };
        memory.joined[place] = (hash, node, known.node);
        Known { node, ..known }
    }

    fn memory(&mut self) -> Option<&'static mut Memory> {
        if self.memory.is_null() {
            if !arena::has_room((size_of::<Memory>() as u64) + (1 << 20)) {
                return None;
            }
            self.memory = arena::take(size_of::<Memory>(), 64).cast();
        }
        // SAFETY: null, or zeroed memory for good, of this size and alignment, which only this thread's guard leads to; all zero is valid.
        unsafe { self.memory.as_mut() }
    }
}

/// The interpreter ends, and this thread is not the one that ends it.
fn is_ending(python: &Interpreter, offsets: &Offsets, state: u64) -> bool {
    // SAFETY: a pointer-sized atomic in the interpreter's own data, whose module is in use by this thread.
    let ending = unsafe { &*((python.runtime + offsets.finalizing) as *const AtomicU64) }.load(Ordering::Acquire);
    ending != 0 && ending != state
}

/// A word of the interpreter's.
///
/// # Safety
/// `at` is what the thread's state, or a frame that it leads to, says of itself (see the module's text).
#[inline(always)]
unsafe fn word(at: u64) -> u64 {
    // SAFETY: as the caller says; aligned, since every structure is and so are the offsets of its pointers.
    unsafe { *(at as *const u64) }
}

/// No user address lies above.
const POINTERS_END: u64 = if cfg!(target_arch = "aarch64") { 1 << 52 } else { 1 << 47 };

/// A pointer that a frame can have.
#[inline(always)]
fn is_pointer(value: u64) -> bool {
    (4096..POINTERS_END).contains(&value) && value & 7 == 0
}

/// The Python functions that run on this thread, innermost first: how many, and what tells them apart. `None`: none.
#[inline(always)]
fn follow(offsets: &Offsets, state: u64, calls: &mut [Call; DEPTH]) -> Option<(usize, StackHash)> {
    // SAFETY: the living state of this thread.
    let mut frame = unsafe {
        match offsets.cframe {
            None => word(state + offsets.current_frame),
            Some(at) => {
                let cframe = word(state + at);
                if !is_pointer(cframe) {
                    return None;
                }
                word(cframe + offsets.current_frame)
            }
        }
    };
    let mut hash = StackHash::new();
    let (mut count, mut steps) = (0, 0);
    while is_pointer(frame) && steps < 2 * DEPTH && count < DEPTH {
        steps += 1;
        // SAFETY: a frame that this thread's state leads to.
        let (owner, previous) = unsafe { (*((frame + offsets.owner) as *const u8), word(frame + offsets.previous)) };
        if owner >= OWNED_BY_INTERPRETER {
            // The interpreter's own, at each entry.
            if let Some(last) = count.checked_sub(1) {
                calls[last].entered = true;
            }
        } else {
            // SAFETY: as above. From 3.14 on the lowest bits say how it is counted.
            let code = unsafe { word(frame + offsets.code) } & !7;
            if !is_pointer(code) {
                return None;
            }
            // SAFETY: as above; the frame holds its code object.
            let call = unsafe {
                Call {
                    code,
                    instruction: word(frame + offsets.instruction),
                    identity: word(code + offsets.qualname) ^ word(code + offsets.linetable).rotate_left(32),
                    entered: offsets.is_entry.is_some_and(|at| *((frame + at) as *const u8) != 0),
                }
            };
            hash = hash.with(call.code).with(call.instruction ^ call.identity.rotate_left(7)).with(call.entered.into());
            calls[count] = call;
            count += 1;
        }
        frame = previous;
    }
    (count > 0).then_some((count, hash))
}

impl Memory {
    /// The interpreter is on this stack.
    #[inline(always)]
    fn is_interpreted(&mut self, python: &Interpreter, segment: &Segment, node: u32) -> bool {
        let place = node as usize % KINDS;
        if self.kinds[place].0 != node {
            let mut at = node;
            let mut found = false;
            while at != 0 && !found {
                let frame = segment.node(at);
                found = frame.module.load(Ordering::Relaxed) == python.module;
                at = frame.parent.load(Ordering::Relaxed);
            }
            self.kinds[place] = (node, u32::from(found));
        }
        self.kinds[place].1 != 0
    }

    /// The node of the C frames of `node` with the first `count` of `calls` between them; what is too long is cut at its outer end.
    /// `None` where the nodes are used up.
    #[inline(never)]
    fn merge(
        &mut self,
        python: &Interpreter,
        offsets: &Offsets,
        segment: &Segment,
        node: u32,
        count: usize,
    ) -> Option<u32> {
        let (mut depth, mut at) = (0, node);
        while at != 0 && at < MAX_NODES && depth < DEPTH {
            let frame = segment.node(at);
            self.frames[depth] =
                StackFrame { pc: frame.pc.load(Ordering::Relaxed), module: frame.module.load(Ordering::Relaxed) };
            at = frame.parent.load(Ordering::Relaxed);
            depth += 1;
        }
        let runs_python = |frame: &StackFrame| {
            frame.module == python.module && (python.eval.0..python.eval.1).contains(&frame.pc.wrapping_sub(1))
        };
        // A C frame of the interpreter's stands for the functions up to the next entry.
        let (mut merged, mut next) = (0, 0);
        let mut cut = count == DEPTH;
        let mut put = |frame: StackFrame| match self.merged.get_mut(merged) {
            Some(place) => {
                *place = frame;
                merged += 1;
            }
            None => cut = true,
        };
        let entries = self.frames[..depth].iter().filter(|frame| runs_python(frame)).count();
        let mut seen = 0;
        for index in 0..depth {
            let frame = self.frames[index];
            // Compilers put rare cases elsewhere: a stack without the function itself has it where the interpreter begins.
            let here = runs_python(&frame) || entries == 0 && next == 0 && frame.module == python.module;
            if here {
                seen += 1;
                let last = seen >= entries;
                while next < count {
                    let call = self.calls[next];
                    next += 1;
                    if let Some(pc) = name(&mut self.named, python, offsets, segment, call) {
                        put(StackFrame { pc, module: NODE_PYTHON });
                    }
                    // What is left over belongs to the outermost.
                    if call.entered && !last {
                        break;
                    }
                }
            }
            put(frame);
        }
        if cut {
            segment.header().stacks_truncated.fetch_add(1, Ordering::Relaxed);
        }
        intern::nodes(segment, 0, self.merged[..merged].iter().rev().copied())
    }
}

/// The node's pc for a call: where its text lies, and its line. `None`: it is nothing that can be named.
fn name(
    named: &mut [(u64, u64); NAMED],
    python: &Interpreter,
    offsets: &Offsets,
    segment: &Segment,
    call: Call,
) -> Option<u64> {
    let hash = StackHash::new().with(call.code).with(call.instruction).with(call.identity).value();
    let place = &mut named[hash as usize % NAMED];
    if place.0 == hash {
        return Some(place.1);
    }
    let pc = sys::keep_errno(|| {
        let memory = |at: u64, into: &mut [u8]| sys::read_self(at, into) == into.len();
        let pointer = |at: u64| {
            let mut bytes = [0; 8];
            memory(at, &mut bytes).then_some(u64::from_le_bytes(bytes))
        };
        let types = &python.types;
        if !code::is_code(&memory, types, call.code) {
            return None;
        }
        let file = pointer(call.code + offsets.filename)?;
        let name = pointer(call.code + offsets.qualname)?;
        let file = code::text::<TEXT_FILE_BYTES>(&memory, offsets, types, file, true)?;
        let name = code::text::<TEXT_NAME_BYTES>(&memory, offsets, types, name, false)?;
        let line = code::line(&memory, offsets, types, call.code, call.instruction).unwrap_or(0);
        let text = text_at(segment, file.bytes(), name.bytes())?;
        Some(u64::from(text) << 32 | u64::from(line))
    })?;
    *place = (hash, pc);
    Some(pc)
}

/// Texts that were written, by their hash: its upper half, and where the text lies. Of the present segment.
static TEXTS: [AtomicU64; 4096] = [const { AtomicU64::new(0) }; 4096];

/// Forgets them: for a new segment.
pub fn reset(segment: &Segment) {
    for text in &TEXTS {
        text.store(0, Ordering::Relaxed);
    }
    say(segment);
}

/// Where the text lies in the segment, written there if it is new. `None` where there is no room.
fn text_at(segment: &Segment, file: &[u8], name: &[u8]) -> Option<u32> {
    let mut hash = StackHash::new().with(file.len() as u64);
    for piece in file.chunks(8).chain(name.chunks(8)) {
        hash = hash.with(piece.iter().fold(0, |value, &byte| value << 8 | u64::from(byte)));
    }
    let hash = hash.value() | 1 << 63;
    let place = &TEXTS[hash as usize % TEXTS.len()];
    let known = place.load(Ordering::Acquire);
    if known >> 32 == hash >> 32 && segment.text_is(known as u32, file, name) {
        return Some(known as u32);
    }
    let header = segment.header();
    let bytes = (8 + file.len() + name.len()).next_multiple_of(8) as u32;
    let at = header.text_bytes.fetch_add(bytes, Ordering::Relaxed);
    if at.checked_add(bytes).is_none_or(|end| end > TEXT_BYTES) {
        header.text_bytes.fetch_sub(bytes, Ordering::Relaxed);
        header.texts_exhausted.fetch_add(1, Ordering::Relaxed);
        return None;
    }
    segment.write_text(at, file, name);
    place.store(hash >> 32 << 32 | u64::from(at), Ordering::Release);
    Some(at)
}
