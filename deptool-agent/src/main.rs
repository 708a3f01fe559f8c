//! The program `deptool-agent`.
//!
//! Without arguments it serves one helper over standard input and output. With the argument `recover` it only recovers an
//! interrupted deployment: the unit `deptool-recover.service` runs it at boot.
//!
//! `DEPTOOL_ROOT` names a root directory to work on instead of `/`. Helpers set it for urls like `deptool::/path`.

use std::{
    env,
    error::Error,
    fs::File,
    io::{self, Write as _},
    os::fd::AsFd,
    path::PathBuf,
    process::ExitCode,
};

use deptool_agent::{
    host::{
        connection::peer::Peer,
        recover, session,
        state::{boot, labels, layout::Home},
    },
    shared::{
        build::NO_ROOT,
        env_request,
        seal::{self, Seal},
    },
    system::{System, offline::Offline, systemd::Systemd},
};

fn main() -> ExitCode {
    if is_damaged() {
        // The helper replaces the file. If it is gone, nobody needs the line.
        let _ = writeln!(io::stdout(), "deptool-error {} the agent's file is damaged", seal::DAMAGED);
        return ExitCode::FAILURE;
    }
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    keep_memory_private();
    let arguments: Vec<_> = env::args_os().skip(1).collect();
    let result = match arguments.as_slice() {
        [] => serve(),
        [only] if only == boot::RECOVER => recover(),
        _ => {
            eprintln!("{}", deptool_agent::shared::build::agent_file_name());
            eprintln!("This is the part of git-deptool that runs on hosts. It is started by git-remote-deptool.");
            return ExitCode::FAILURE;
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("deptool-agent: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Secrets pass through this process: it leaves no core dump, and only root can look into its memory.
fn keep_memory_private() {
    // Neither can fail for these values. Even if, a deployment is worth more than the absence of a core dump.
    let _ = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable);
    let none = rustix::process::Rlimit { current: Some(0), maximum: Some(0) };
    let _ = rustix::process::setrlimit(rustix::process::Resource::Core, none);
}

/// Whether the file of this program is known to be damaged. If it can't be read, nothing is known.
fn is_damaged() -> bool {
    let seal = File::open("/proc/self/exe").and_then(seal::check_own);
    seal.is_ok_and(|seal| seal == Seal::Broken)
}

fn root() -> PathBuf {
    env::var_os("DEPTOOL_ROOT").map_or(PathBuf::from("/"), PathBuf::from)
}

fn serve() -> Result<(), Box<dyn Error>> {
    let root = root();
    let home = Home::new(&root);
    if home.is_live() && !rustix::process::geteuid().is_root() {
        // It was started without the script that uses sudo. The helper now runs that.
        return Ok(writeln!(io::stdout(), "deptool-error {NO_ROOT} the login is not root")?);
    }
    let input = io::stdin().as_fd().try_clone_to_owned()?;
    let output = io::stdout().as_fd().try_clone_to_owned()?;
    let prefix = env::var_os(env_request::VARIABLE).and_then(|value| env_request::decode(value.as_encoded_bytes()));
    let mut peer = Peer::new(input, output, prefix.unwrap_or_default(), home.heartbeat())?;
    let system = || -> Box<dyn System> {
        if home.is_live() { Box::new(Systemd::new()) } else { Box::new(Offline::new(root.clone())) }
    };
    session::serve(&home, &mut peer, &system, &detach::detached);
    Ok(())
}

fn recover() -> Result<(), Box<dyn Error>> {
    let root = root();
    let home = Home::new(&root);
    let mut system: Box<dyn System> =
        if home.is_live() { Box::new(Systemd::at_boot()) } else { Box::new(Offline::new(root)) };
    if let Some(why) = labels::mend(&home) {
        eprintln!("deptool-agent: {why}");
    }
    if let Some(what) = recover::at_boot(&home, &mut *system)? {
        eprintln!("deptool-agent: {what}");
    }
    Ok(())
}

mod detach {
    //! Lets a deployment go on when the login session of its connection ends.

    use std::io;

    use rustix::process::{WaitOptions, setsid, waitpid};

    /// Run `work` in a child process with a session of its own, and wait for the child. Hang-ups and signals to the login
    /// session do not reach the child.
    ///
    /// The parent only waits, so it does not matter if it is killed. The child is still in the control group of the login
    /// session; `work` leaves it with the help of the service manager.
    #[allow(unsafe_code)]
    pub fn detached(work: &mut dyn FnMut()) -> io::Result<()> {
        // SAFETY: no other thread is running, so the child's memory is consistent. The child ends in `_exit` below, so it
        // does not repeat destructors or flushes of the parent.
        let child = unsafe { libc::fork() };
        match child {
            -1 => Err(io::Error::last_os_error()),
            0 => {
                ignore_signals();
                // This only fails for a group leader, and a forked child is none.
                let _ = setsid();
                work();
                // SAFETY: the parent runs the destructors, not the child.
                unsafe { libc::_exit(0) }
            }
            child => {
                let pid = rustix::process::Pid::from_raw(child);
                while let Err(rustix::io::Errno::INTR) = waitpid(pid, WaitOptions::empty()) {}
                Ok(())
            }
        }
    }

    #[allow(unsafe_code)]
    fn ignore_signals() {
        for signal in [libc::SIGHUP, libc::SIGTERM, libc::SIGINT, libc::SIGPIPE] {
            // SAFETY: SIG_IGN installs no handler, so no code runs in signal context.
            unsafe { libc::signal(signal, libc::SIG_IGN) };
        }
    }
}

#[cfg(no_unwinding)]
#[allow(unsafe_code)]
mod no_unwinding {
    //! Stand-ins for the functions of libunwind that std calls.
    //!
    //! std's panic handler walks the stack with `_Unwind_Backtrace`. The agent for hosts is stripped, so a backtrace could not
    //! name any function. Without it the linker drops libunwind and std's reader of debug information: a sixth of the agent.

    use std::ffi::{c_int, c_void};

    type Visit = extern "C" fn(*mut c_void, *mut c_void) -> c_int;

    const END_OF_STACK: c_int = 5;

    // SAFETY: name and types are those of the Itanium C++ ABI, and the linker is told to accept two definitions.
    #[unsafe(no_mangle)]
    extern "C" fn _Unwind_Backtrace(_visit: Visit, _argument: *mut c_void) -> c_int {
        END_OF_STACK
    }

    /// Only std's personality function calls these, and only unwinding calls the personality function.
    macro_rules! never_called {
        ($($name:ident)*) => {$(
            // SAFETY: as above. The arguments are ignored.
            #[unsafe(no_mangle)]
            extern "C" fn $name() {
                std::process::abort()
            }
        )*};
    }

    never_called! {
        _Unwind_GetDataRelBase
        _Unwind_GetIPInfo
        _Unwind_GetLanguageSpecificData
        _Unwind_GetRegionStart
        _Unwind_GetTextRelBase
        _Unwind_Resume
        _Unwind_SetGR
        _Unwind_SetIP
    }
}
