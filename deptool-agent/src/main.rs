//! The agent: talks to a helper over standard input and output, and ends.
//!
//! `DEPTOOL_ROOT` names a root directory to work on instead of `/`; it is how helpers run it for `deptool::/path`.
//!
//! It takes no arguments but one: `recover` is how a booting machine runs it, to mend what was interrupted.

use std::{env, error::Error, io, os::fd::AsFd, path::PathBuf, process::ExitCode};

use deptool_agent::{
    host::{
        connection::peer::Peer,
        recover, session,
        state::{boot, layout::Home},
    },
    shared::env_request,
    system::{System, offline::Offline, systemd::Systemd},
};

fn main() -> ExitCode {
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
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

fn root() -> PathBuf {
    env::var_os("DEPTOOL_ROOT").map_or(PathBuf::from("/"), PathBuf::from)
}

fn serve() -> Result<(), Box<dyn Error>> {
    let root = root();
    let home = Home::new(&root);
    let input = io::stdin().as_fd().try_clone_to_owned()?;
    let output = io::stdout().as_fd().try_clone_to_owned()?;
    let early = env::var_os(env_request::VARIABLE).and_then(|value| env_request::decode(value.as_encoded_bytes()));
    let mut peer = Peer::new(input, output, early.unwrap_or_default(), home.heartbeat())?;
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
    if let Some(what) = recover::at_boot(&home, &mut *system)? {
        eprintln!("deptool-agent: {what}");
    }
    Ok(())
}

mod detach {
    //! A deployment goes on when the login session that it came through ends.

    use std::io;

    use rustix::process::{WaitOptions, setsid, waitpid};

    /// Run `work` in a child of its own session that no terminal's or session's end can reach, and wait for it.
    ///
    /// The parent only waits: if it is killed with its session, nothing is lost. (Leaving the session's control group
    /// is the work's own business; it needs the service manager.)
    #[allow(unsafe_code)]
    pub fn detached(work: &mut dyn FnMut()) -> io::Result<()> {
        // SAFETY: the agent has only this thread, so the child's memory is consistent; it ends in `_exit` below, and
        // runs no destructor or buffer flush of the parent's twice.
        let child = unsafe { libc::fork() };
        match child {
            -1 => Err(io::Error::last_os_error()),
            0 => {
                ignore_signals();
                // Fails only for a group leader, which a forked child is not.
                let _ = setsid();
                work();
                // SAFETY: nothing of the parent's is to be run.
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
            // SAFETY: SIG_IGN is no handler: no code of ours runs in signal context.
            unsafe { libc::signal(signal, libc::SIG_IGN) };
        }
    }
}

#[cfg(no_unwinding)]
#[allow(unsafe_code)]
mod no_unwinding {
    //! What std calls of libunwind, linked in its place.
    //!
    //! std's panic message looks for the stack through `_Unwind_Backtrace`. An agent that goes to hosts has no symbols: a
    //! backtrace could name nothing. If nothing walks the stack, std's reader of debug information is not needed, nor is
    //! libunwind, together a sixth of the agent.

    use std::ffi::{c_int, c_void};

    type Visit = extern "C" fn(*mut c_void, *mut c_void) -> c_int;

    const END_OF_STACK: c_int = 5;

    // SAFETY: name and types are those of the Itanium C++ ABI, and the linker is told to take the first of two.
    #[unsafe(no_mangle)]
    extern "C" fn _Unwind_Backtrace(_visit: Visit, _argument: *mut c_void) -> c_int {
        END_OF_STACK
    }

    /// Only std's personality function calls them, and only unwinding calls that.
    macro_rules! never_called {
        ($($name:ident)*) => {$(
            // SAFETY: as above; whatever the arguments are, none is looked at.
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
