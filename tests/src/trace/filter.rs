//! The system calls that change something, and the seccomp filter that selects them.

use std::io;

use libc::{c_long, sock_filter, sock_fprog};

/// Which argument of a call names its file.
#[derive(Debug, Clone, Copy)]
pub enum About {
    /// A path, in this argument.
    Path(usize),
    /// An open file, in this argument.
    File(usize),
    /// An open file in the first argument, and the written bytes in the next two.
    Write,
}

const CHANGES: &[(c_long, &str, About)] = &[
    (libc::SYS_open, "open", About::Path(0)),
    (libc::SYS_openat, "openat", About::Path(1)),
    (libc::SYS_openat2, "openat2", About::Path(1)),
    (libc::SYS_creat, "creat", About::Path(0)),
    (libc::SYS_write, "write", About::Write),
    (libc::SYS_pwrite64, "pwrite64", About::Write),
    (libc::SYS_writev, "writev", About::File(0)),
    (libc::SYS_pwritev, "pwritev", About::File(0)),
    (libc::SYS_sendfile, "sendfile", About::File(0)),
    (libc::SYS_copy_file_range, "copy_file_range", About::File(2)),
    (libc::SYS_splice, "splice", About::File(2)),
    (libc::SYS_truncate, "truncate", About::Path(0)),
    (libc::SYS_ftruncate, "ftruncate", About::File(0)),
    (libc::SYS_fallocate, "fallocate", About::File(0)),
    (libc::SYS_rename, "rename", About::Path(1)),
    (libc::SYS_renameat, "renameat", About::Path(3)),
    (libc::SYS_renameat2, "renameat2", About::Path(3)),
    (libc::SYS_link, "link", About::Path(1)),
    (libc::SYS_linkat, "linkat", About::Path(3)),
    (libc::SYS_symlink, "symlink", About::Path(1)),
    (libc::SYS_symlinkat, "symlinkat", About::Path(2)),
    (libc::SYS_unlink, "unlink", About::Path(0)),
    (libc::SYS_unlinkat, "unlinkat", About::Path(1)),
    (libc::SYS_rmdir, "rmdir", About::Path(0)),
    (libc::SYS_mkdir, "mkdir", About::Path(0)),
    (libc::SYS_mkdirat, "mkdirat", About::Path(1)),
    (libc::SYS_mknod, "mknod", About::Path(0)),
    (libc::SYS_mknodat, "mknodat", About::Path(1)),
    (libc::SYS_chmod, "chmod", About::Path(0)),
    (libc::SYS_fchmod, "fchmod", About::File(0)),
    (libc::SYS_fchmodat, "fchmodat", About::Path(1)),
    (libc::SYS_chown, "chown", About::Path(0)),
    (libc::SYS_lchown, "lchown", About::Path(0)),
    (libc::SYS_fchown, "fchown", About::File(0)),
    (libc::SYS_fchownat, "fchownat", About::Path(1)),
    (libc::SYS_utimensat, "utimensat", About::Path(1)),
    (libc::SYS_setxattr, "setxattr", About::Path(0)),
    (libc::SYS_fsetxattr, "fsetxattr", About::File(0)),
    (libc::SYS_bind, "bind", About::File(0)),
    (libc::SYS_sync, "sync", About::File(0)),
    (libc::SYS_syncfs, "syncfs", About::File(0)),
    (libc::SYS_fsync, "fsync", About::File(0)),
    (libc::SYS_fdatasync, "fdatasync", About::File(0)),
];

/// Most files are opened for reading. An open changes something only with one of these flags.
const MAKES: u32 = (libc::O_CREAT | libc::O_TRUNC | 0o20_000_000) as u32;

/// `AUDIT_ARCH_X86_64` of `linux/audit.h`.
const X86_64: u32 = 0xc000_003e;

/// The name of a call that changes something, and the argument with its file.
pub fn change(number: u64) -> Option<(&'static str, About)> {
    CHANGES.iter().find(|(known, ..)| *known as u64 == number).map(|(_, name, about)| (*name, *about))
}

/// A program for [`install`].
pub fn program() -> Vec<sock_filter> {
    let op = |code: u32, k: u32| sock_filter { code: code as u16, jt: 0, jf: 0, k };
    let load = |offset: u32| op(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, offset);
    let result = |what: u32| op(libc::BPF_RET | libc::BPF_K, what);
    let when = |test: u32, k: u32, yes: usize, no: usize| sock_filter {
        code: (libc::BPF_JMP | test | libc::BPF_K) as u16,
        jt: yes as u8,
        jf: no as u8,
        k,
    };
    let (open, others): (Vec<_>, Vec<_>) =
        CHANGES.iter().map(|(number, ..)| *number).partition(|n| [libc::SYS_open, libc::SYS_openat].contains(n));
    // seccomp_data: number at 0, architecture at 4, arguments of eight bytes from 16 on.
    let flags_of = |number: c_long| if number == libc::SYS_open { 16 + 8 } else { 16 + 2 * 8 };
    let mut out = vec![load(4), when(libc::BPF_JEQ, X86_64, 1, 0), result(libc::SECCOMP_RET_ALLOW), load(0)];
    for number in open {
        out.push(when(libc::BPF_JEQ, number as u32, 0, 4));
        out.push(load(flags_of(number)));
        out.push(when(libc::BPF_JSET, MAKES, 0, 1));
        out.push(result(libc::SECCOMP_RET_TRACE));
        out.push(result(libc::SECCOMP_RET_ALLOW));
    }
    for number in others {
        out.push(when(libc::BPF_JEQ, number as u32, 0, 1));
        out.push(result(libc::SECCOMP_RET_TRACE));
    }
    out.push(result(libc::SECCOMP_RET_ALLOW));
    out
}

/// Installs the filter for this process and its descendants. It is called between fork and exec, so it does not
/// allocate.
#[allow(unsafe_code)]
pub fn install(program: &mut [sock_filter]) -> io::Result<()> {
    let program = sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: plain numbers, and a pointer to a program that outlives the call; the kernel checks it.
    let done = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
            && libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) == 0
    };
    if done { Ok(()) } else { Err(io::Error::last_os_error()) }
}
