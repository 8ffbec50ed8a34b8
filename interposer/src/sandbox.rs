//! Filters of system calls that the host installs for itself: which of *our* calls would kill it.
//!
//! A seccomp filter that answers with an error costs avleak a piece of what it knows; one that kills would take the host down for a
//! call that the host never makes. So the installation is watched (prctl and the seccomp call, both tail-jumped to), the filter is run
//! over the calls of ours as the kernel would run it, and what it does not survive is not called any more.
//!
//! Not for: filters that were there before the program was started; and a filter of one thread is taken for the whole process's.

use core::ffi::{c_long, c_void};
use core::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

use crate::{loader, sys};

/// Where the prctl stub jumps.
pub static REAL_PRCTL: AtomicPtr<c_void> = AtomicPtr::new(core::ptr::null_mut());
/// Where the stub of syscall(2) jumps.
pub static REAL_SYSCALL: AtomicPtr<c_void> = AtomicPtr::new(core::ptr::null_mut());

/// A call of ours; its place in [`CALLS`].
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Call {
    Readv,
    Writev,
    Gettid,
    Sigaltstack,
    Openat,
    Affinity,
    Futex,
    Nanosleep,
    Yield,
    Munlock,
    Write,
    Fstat,
    Mask,
    MemfdCreate,
    Ftruncate,
    Fcntl,
    Getrlimit,
    Socket,
    Connect,
    Sendmsg,
    Ppoll,
    Recvfrom,
    Getsockopt,
    Prctl,
    Close,
    Mprotect,
    Madvise,
    Clone,
    Wait,
    Socketpair,
    Access,
    Pread,
    Read,
    Mmap,
    Munmap,
    Getpid,
    Pending,
    TimedWait,
}

/// Number, name, and the arguments that a filter may look at.
const CALLS: [(c_long, &str, [u64; 4]); 38] = [
    (libc::SYS_process_vm_readv, "process_vm_readv", [0; 4]),
    (libc::SYS_process_vm_writev, "process_vm_writev", [0; 4]),
    (libc::SYS_gettid, "gettid", [0; 4]),
    (libc::SYS_sigaltstack, "sigaltstack", [0; 4]),
    (libc::SYS_openat, "openat", [libc::AT_FDCWD as u64, 0, (libc::O_RDONLY | libc::O_CLOEXEC) as u64, 0]),
    (libc::SYS_sched_getaffinity, "sched_getaffinity", [0; 4]),
    (libc::SYS_futex, "futex", [0, libc::FUTEX_WAKE as u64, i32::MAX as u64, 0]),
    (libc::SYS_nanosleep, "nanosleep", [0; 4]),
    (libc::SYS_sched_yield, "sched_yield", [0; 4]),
    (libc::SYS_munlock, "munlock", [0; 4]),
    (libc::SYS_write, "write", [2, 0, 0, 0]),
    (libc::SYS_newfstatat, "newfstatat", [2, 0, 0, 0]),
    (libc::SYS_rt_sigprocmask, "rt_sigprocmask", [0; 4]),
    (libc::SYS_memfd_create, "memfd_create", [0, (libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING) as u64, 0, 0]),
    (libc::SYS_ftruncate, "ftruncate", [3, 0, 0, 0]),
    (libc::SYS_fcntl, "fcntl", [3, libc::F_ADD_SEALS as u64, 0, 0]),
    (libc::SYS_prlimit64, "prlimit64", [0; 4]),
    (
        libc::SYS_socket,
        "socket",
        [libc::AF_UNIX as u64, (libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK) as u64, 0, 0],
    ),
    (libc::SYS_connect, "connect", [3, 0, 0, 0]),
    (libc::SYS_sendmsg, "sendmsg", [3, 0, libc::MSG_NOSIGNAL as u64, 0]),
    (libc::SYS_ppoll, "ppoll", [0, 1, 0, 0]),
    (libc::SYS_recvfrom, "recvfrom", [3, 0, 0, libc::MSG_DONTWAIT as u64]),
    (libc::SYS_getsockopt, "getsockopt", [3, libc::SOL_SOCKET as u64, libc::SO_PEERCRED as u64, 0]),
    (libc::SYS_prctl, "prctl", [libc::PR_SET_PTRACER as u64, 0, 0, 0]),
    (libc::SYS_close, "close", [3, 0, 0, 0]),
    (libc::SYS_mprotect, "mprotect", [0, 0, (libc::PROT_READ | libc::PROT_WRITE) as u64, 0]),
    (libc::SYS_madvise, "madvise", [0, 0, libc::MADV_DONTDUMP as u64, 0]),
    (libc::SYS_clone, "clone", [(libc::CLONE_VM | libc::CLONE_VFORK) as u64, 0, 0, 0]),
    (libc::SYS_wait4, "wait4", [0; 4]),
    (libc::SYS_socketpair, "socketpair", [libc::AF_UNIX as u64, 0, 0, 0]),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_access, "access", [0; 4]),
    #[cfg(target_arch = "aarch64")]
    (libc::SYS_faccessat, "faccessat", [libc::AT_FDCWD as u64, 0, 0, 0]),
    (libc::SYS_pread64, "pread64", [3, 0, 0, 0]),
    (libc::SYS_read, "read", [3, 0, 0, 0]),
    (
        libc::SYS_mmap,
        "mmap",
        [0, 0, (libc::PROT_READ | libc::PROT_WRITE) as u64, (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as u64],
    ),
    (libc::SYS_munmap, "munmap", [0; 4]),
    (libc::SYS_getpid, "getpid", [0; 4]),
    (libc::SYS_rt_sigpending, "rt_sigpending", [0; 4]),
    (libc::SYS_rt_sigtimedwait, "rt_sigtimedwait", [0; 4]),
];

/// What arming calls in any case, and what it calls besides where it starts an analyzer.
const ARMING: [Call; 17] = [
    Call::MemfdCreate,
    Call::Ftruncate,
    Call::Fcntl,
    Call::Getrlimit,
    Call::Socket,
    Call::Connect,
    Call::Sendmsg,
    Call::Ppoll,
    Call::Recvfrom,
    Call::Getsockopt,
    Call::Prctl,
    Call::Close,
    Call::Mprotect,
    Call::Madvise,
    Call::Mmap,
    Call::Munmap,
    Call::Getpid,
];
const STARTING: [Call; 5] = [Call::Clone, Call::Wait, Call::Socketpair, Call::Access, Call::Mask];

/// A bit for each call that would kill.
static DEADLY: AtomicU64 = AtomicU64::new(0);

/// The host would not survive it.
#[inline(always)]
pub fn kills(call: Call) -> bool {
    DEADLY.load(Ordering::Relaxed) & 1 << call as u32 != 0
}

/// Name of a call without which there is no arming, and that would kill; `starting`: an analyzer of one's own is to be started.
pub fn forbids_arming(starting: bool) -> Option<&'static str> {
    let besides = if starting { &STARTING[..] } else { &[] };
    ARMING.iter().chain(besides).find(|&&call| kills(call)).map(|&call| CALLS[call as usize].1)
}

/// A filter that the host installs by either call; longer ones the kernel refuses.
const LONGEST: usize = 4096;

/// prctl(PR_SET_SECCOMP, mode, filter) is about to be called.
pub extern "C" fn by_prctl(_option: u64, mode: u64, filter: u64) {
    note(mode == 1, filter);
}

/// syscall(SYS_seccomp, operation, flags, filter) is about to be called.
pub extern "C" fn by_syscall(_number: u64, operation: u64, _flags: u64, filter: u64) {
    // SECCOMP_SET_MODE_STRICT is 0, SECCOMP_SET_MODE_FILTER 1; the others install nothing.
    if operation <= 1 {
        note(operation == 0, filter);
    }
}

fn note(strict: bool, filter: u64) {
    let deadly = sys::keep_errno(|| {
        if strict {
            // read, write, exit and sigreturn are left.
            !(1 << Call::Write as u32)
        } else {
            judge(filter)
        }
    });
    DEADLY.fetch_or(deadly, Ordering::SeqCst);
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Instruction {
    code: u16,
    jump_true: u8,
    jump_false: u8,
    k: u32,
}

/// A bit for each of our calls that the filter at `program` (a sock_fprog) kills for. What cannot be read or run counts as deadly.
fn judge(program: u64) -> u64 {
    let mut head = [0u8; 16];
    if sys::read_self(program, &mut head) != head.len() {
        // The kernel answers EFAULT.
        return 0;
    }
    let count = usize::from(u16::from_le_bytes([head[0], head[1]]));
    let at = u64::from_le_bytes(head[8..].try_into().unwrap_or_default());
    if count == 0 || count > LONGEST {
        return 0;
    }
    let mut all = 0;
    for (bit, (number, _, arguments)) in CALLS.iter().enumerate() {
        let data = data_of(*number, arguments);
        let action = run(count, &data, |index| {
            let mut bytes = [0u8; 8];
            (sys::read_self(at + 8 * index as u64, &mut bytes) == 8).then(|| Instruction {
                code: u16::from_le_bytes([bytes[0], bytes[1]]),
                jump_true: bytes[2],
                jump_false: bytes[3],
                k: u32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]),
            })
        });
        if !action.is_some_and(survives) {
            all |= 1 << bit;
        }
    }
    all
}

/// SECCOMP_RET_ERRNO, _TRACE (ENOSYS), _LOG and _ALLOW; all others kill, trap or wait for somebody (linux/seccomp.h).
fn survives(action: u32) -> bool {
    matches!(action & 0xffff_0000, 0x0005_0000 | 0x7ff0_0000 | 0x7ffc_0000 | 0x7fff_0000)
}

/// struct seccomp_data, as 32-bit words: nr, arch, instruction pointer, six arguments.
fn data_of(number: c_long, arguments: &[u64; 4]) -> [u32; 16] {
    // AUDIT_ARCH_X86_64, AUDIT_ARCH_AARCH64 (linux/audit.h).
    const ARCHITECTURE: u32 = if cfg!(target_arch = "aarch64") { 0xc000_00b7 } else { 0xc000_003e };
    let mut data = [0; 16];
    (data[0], data[1]) = (number as u32, ARCHITECTURE);
    for (place, argument) in data[4..].chunks_exact_mut(2).zip(arguments) {
        (place[0], place[1]) = (*argument as u32, (*argument >> 32) as u32);
    }
    data
}

/// Runs a classic BPF program as the kernel does for seccomp (Documentation/networking/filter.rst); `None` where it is not one.
fn run(count: usize, data: &[u32; 16], fetch: impl Fn(usize) -> Option<Instruction>) -> Option<u32> {
    let (mut a, mut x, mut memory) = (0u32, 0u32, [0u32; 16]);
    let mut at = 0;
    // Jumps only lead forwards, so that it ends.
    while at < count {
        let Instruction { code, jump_true, jump_false, k } = fetch(at)?;
        at += 1;
        let operand = if code & 0x08 != 0 { x } else { k };
        match code & 0x07 {
            // BPF_LD, BPF_LDX: absolute word, immediate, memory, length.
            class @ (0 | 1) => {
                let value = match code & 0xe0 {
                    0x20 if class == 0 && k % 4 == 0 => *data.get(k as usize / 4)?,
                    0x00 => k,
                    0x60 => *memory.get(k as usize)?,
                    0x80 => size_of_val(data) as u32,
                    _ => return None,
                };
                if class == 0 { a = value } else { x = value }
            }
            // BPF_ST, BPF_STX.
            2 => *memory.get_mut(k as usize)? = a,
            3 => *memory.get_mut(k as usize)? = x,
            // BPF_ALU.
            4 => {
                a = match code & 0xf0 {
                    0x00 => a.wrapping_add(operand),
                    0x10 => a.wrapping_sub(operand),
                    0x20 => a.wrapping_mul(operand),
                    0x30 => a.checked_div(operand).unwrap_or(0),
                    0x40 => a | operand,
                    0x50 => a & operand,
                    0x60 => a.checked_shl(operand).unwrap_or(0),
                    0x70 => a.checked_shr(operand).unwrap_or(0),
                    0x80 => a.wrapping_neg(),
                    0xa0 => a ^ operand,
                    _ => return None,
                };
            }
            // BPF_JMP.
            5 => {
                let holds = match code & 0xf0 {
                    0x00 => {
                        at += k as usize;
                        continue;
                    }
                    0x10 => a == operand,
                    0x20 => a > operand,
                    0x30 => a >= operand,
                    0x40 => a & operand != 0,
                    _ => return None,
                };
                at += usize::from(if holds { jump_true } else { jump_false });
            }
            // BPF_RET of a constant or the accumulator.
            6 => return Some(if code & 0x18 == 0x10 { a } else { k }),
            // BPF_MISC: TAX, TXA.
            _ => {
                if code & 0xf8 == 0x80 {
                    a = x;
                } else {
                    x = a;
                }
            }
        }
    }
    None
}

extern "C" fn not_there() -> c_long {
    // SAFETY: this thread's errno, as a missing system call sets it.
    unsafe { *libc::__errno_location() = libc::ENOSYS };
    -1
}

/// Fills the jump targets. Also called by a stub that finds its own empty.
pub extern "C" fn prepare() {
    for (target, name) in [(&REAL_PRCTL, c"prctl"), (&REAL_SYSCALL, c"syscall")] {
        if target.load(Ordering::Relaxed).is_null() {
            let found = loader::symbol(libc::RTLD_NEXT, name);
            target.store(if found.is_null() { not_there as *mut c_void } else { found }, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(program: &[(u16, u8, u8, u32)], number: c_long, arguments: &[u64; 4]) -> Option<u32> {
        run(program.len(), &data_of(number, arguments), |at| {
            let &(code, jump_true, jump_false, k) = program.get(at)?;
            Some(Instruction { code, jump_true, jump_false, k })
        })
    }

    const LOAD_NUMBER: (u16, u8, u8, u32) = (0x20, 0, 0, 0);
    const ALLOW: (u16, u8, u8, u32) = (0x06, 0, 0, 0x7fff_0000);
    const KILL: (u16, u8, u8, u32) = (0x06, 0, 0, 0x8000_0000);

    #[test]
    fn a_list_of_numbers_is_followed_as_the_kernel_does() {
        let program = [LOAD_NUMBER, (0x15, 0, 1, libc::SYS_socket as u32), KILL, ALLOW];
        assert_eq!(of(&program, libc::SYS_socket, &[0; 4]), Some(0x8000_0000));
        assert_eq!(of(&program, libc::SYS_futex, &[0; 4]), Some(0x7fff_0000));
        // A range, by >=, and a jump over it.
        let program = [LOAD_NUMBER, (0x35, 1, 0, 100), ALLOW, (0x05, 0, 0, 1), ALLOW, KILL];
        assert_eq!(of(&program, 99, &[0; 4]), Some(0x7fff_0000));
        assert_eq!(of(&program, 100, &[0; 4]), Some(0x8000_0000));
    }

    #[test]
    fn arguments_arithmetic_and_memory_are_too() {
        // socket(AF_UNIX, …) only: the low word of the first argument.
        let program = [(0x20, 0, 0, 16), (0x15, 0, 1, 1), ALLOW, KILL];
        assert_eq!(of(&program, libc::SYS_socket, &[1, 2, 0, 0]), Some(0x7fff_0000));
        assert_eq!(of(&program, libc::SYS_socket, &[2, 2, 0, 0]), Some(0x8000_0000));
        // st M[3]; a = 7; tax; ld M[3]; a += x; a & 0xff; ret a
        let program = [
            LOAD_NUMBER,
            (0x02, 0, 0, 3),
            (0x00, 0, 0, 7),
            (0x07, 0, 0, 0),
            (0x60, 0, 0, 3),
            (0x0c, 0, 0, 0),
            (0x54, 0, 0, 0xff),
            (0x16, 0, 0, 0),
        ];
        assert_eq!(of(&program, 30, &[0; 4]), Some(37));
    }

    #[test]
    fn what_is_no_program_kills() {
        assert_eq!(of(&[LOAD_NUMBER], 1, &[0; 4]), None);
        assert_eq!(of(&[(0x20, 0, 0, 400), ALLOW], 1, &[0; 4]), None);
        assert!(!survives(0x0003_0000) && !survives(0) && !survives(0x8000_0000) && !survives(0x7fc0_0000));
        assert!(survives(0x0005_0001) && survives(0x7fff_0000));
    }

    #[test]
    fn each_call_is_at_its_own_place() {
        let at = |call: Call| CALLS[call as usize].1;
        assert_eq!(
            (at(Call::Readv), at(Call::Write), at(Call::MemfdCreate), at(Call::TimedWait)),
            ("process_vm_readv", "write", "memfd_create", "rt_sigtimedwait")
        );
    }
}
