//! Where CPython keeps what: offsets by version, for 64-bit builds with the global lock.
//!
//! From 3.13 on the interpreter says them itself (`_Py_DebugOffsets`, the start of `_PyRuntime`); before that they are the same
//! in every build of a version (Include/internal/pycore_frame.h, Include/cpython/{pystate,code,unicodeobject}.h). A build of another shape
//! shows by the type of its first code object, and is not read ([`super::code`]).

/// Bytes from the start of each structure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offsets {
    /// `_PyRuntimeState._finalizing`.
    pub finalizing: u64,
    /// `PyThreadState.cframe`, which leads to the frame until 3.12.
    pub cframe: Option<u64>,
    /// `current_frame`, in the thread state or in `_PyCFrame`.
    pub current_frame: u64,
    /// `_PyInterpreterFrame`: its code object.
    pub code: u64,
    /// … its caller.
    pub previous: u64,
    /// … the instruction that runs, or the one before the next: both lie on the line that runs.
    pub instruction: u64,
    /// … who owns it.
    pub owner: u64,
    /// … in 3.11, whether the interpreter was entered for it; later a frame of its own stands there.
    pub is_entry: Option<u64>,
    /// `PyCodeObject.co_filename`.
    pub filename: u64,
    /// `co_qualname`.
    pub qualname: u64,
    /// `co_linetable`.
    pub linetable: u64,
    /// `co_firstlineno`.
    pub first_line: u64,
    /// `co_code_adaptive`.
    pub bytecode: u64,
    /// Bytes of PyASCIIObject.
    pub ascii_header: u64,
    /// Bytes of PyCompactUnicodeObject.
    pub compact_header: u64,
}

/// From this owner on a frame is the interpreter's own and no function's: `FRAME_OWNED_BY_CSTACK` of 3.12, `…_BY_INTERPRETER` of 3.14.
pub const OWNED_BY_INTERPRETER: u8 = 3;

const V3_11: Offsets = Offsets {
    finalizing: 24,
    cframe: Some(56),
    current_frame: 8,
    code: 32,
    previous: 48,
    instruction: 56,
    owner: 69,
    is_entry: Some(68),
    filename: 112,
    qualname: 128,
    linetable: 136,
    first_line: 72,
    bytecode: 184,
    ascii_header: 48,
    compact_header: 72,
};

const V3_12: Offsets = Offsets {
    current_frame: 0,
    code: 0,
    previous: 8,
    owner: 70,
    is_entry: None,
    first_line: 68,
    bytecode: 192,
    ascii_header: 40,
    compact_header: 56,
    ..V3_11
};

/// `_Py_Debug_Cookie`.
const COOKIE: u64 = u64::from_le_bytes(*b"xdebugpy");

/// Which words of `_Py_DebugOffsets` begin a part.
struct Words {
    thread_state: u64,
    frame: u64,
    code: u64,
}

/// Those of this version, `version` as PY_VERSION_HEX. `word` reads word number n of `_PyRuntime`. `None`: unknown, or a build
/// without the global lock.
pub fn of(version: u32, word: impl Fn(u64) -> Option<u64>) -> Option<Offsets> {
    let words = match version >> 16 {
        0x30b => return Some(V3_11),
        0x30c => return Some(V3_12),
        0x30d => Words { thread_state: 19, frame: 28, code: 34 },
        0x30e => Words { thread_state: 22, frame: 31, code: 39 },
        0x30f => Words { thread_state: 22, frame: 39, code: 47 },
        _ => return None,
    };
    // Another version in the middle of its series may have moved the words: its own number tells whose they are.
    if word(0)? != COOKIE || word(1)? >> 16 != u64::from(version >> 16) || word(2)? != 0 {
        return None;
    }
    // No structure is larger; `_PyRuntime` itself is.
    let offset = |index: u64| word(index).filter(|&bytes| bytes < 4096);
    Some(Offsets {
        finalizing: word(4).filter(|&bytes| bytes < 1 << 20)?,
        cframe: None,
        current_frame: offset(words.thread_state + 4)?,
        previous: offset(words.frame + 1)?,
        code: offset(words.frame + 2)?,
        instruction: offset(words.frame + 3)?,
        owner: offset(words.frame + 5)?,
        filename: offset(words.code + 1)?,
        qualname: offset(words.code + 3)?,
        linetable: offset(words.code + 4)?,
        first_line: offset(words.code + 5)?,
        bytecode: offset(words.code + 9)?,
        ..V3_12
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_that_is_unknown_or_has_no_lock_is_not_read() {
        assert_eq!(of(0x030b_07f0, |_| None), Some(V3_11));
        assert_eq!(of(0x030c_01f0, |_| None), Some(V3_12));
        assert_eq!(of(0x030a_0df0, |_| Some(0)), None);
        assert_eq!(of(0x0310_00f0, |_| Some(0)), None);
        let says = |version: u64, free_threaded: u64| {
            move |index: u64| match index {
                0 => Some(COOKIE),
                1 => Some(version),
                2 => Some(free_threaded),
                index if index < 80 => Some(8 * index),
                _ => None,
            }
        };
        let found = of(0x030d_00f0, says(0x030d_00f0, 0)).expect("the offsets that it says");
        assert_eq!((found.current_frame, found.code, found.bytecode), (8 * 23, 8 * 30, 8 * 43));
        assert_eq!(of(0x030d_00f0, says(0x030d_00f0, 1)), None);
        assert_eq!(of(0x030d_00f0, says(0x030e_00f0, 0)), None);
        assert_eq!(of(0x030d_00f0, |_| Some(0)), None);
    }
}
