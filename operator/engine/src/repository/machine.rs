//! Who we are on this machine, for lock files and keys.

use rustix::process::{Pid, getgid, getuid, test_kill_process};

/// The host's name.
pub(super) fn hostname() -> String {
    rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned()
}

/// The user's name, or number where the environment does not say it.
pub(super) fn username() -> String {
    ["USER", "LOGNAME"]
        .into_iter()
        .find_map(|name| std::env::var(name).ok().filter(|value| !value.is_empty()))
        .unwrap_or_else(|| uid().to_string())
}

/// The user's number.
pub(super) fn uid() -> u32 {
    getuid().as_raw()
}

/// The group's number.
pub(super) fn gid() -> u32 {
    getgid().as_raw()
}

/// Whether a process of this number runs on this host. One that we may not signal does.
pub(super) fn is_alive(pid: u32) -> bool {
    i32::try_from(pid)
        .ok()
        .and_then(Pid::from_raw)
        .is_some_and(|pid| test_kill_process(pid) != Err(rustix::io::Errno::SRCH))
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_living_are_told_from_the_dead() {
        assert!(super::is_alive(std::process::id()));
        assert!(super::is_alive(1));
        let mut child = std::process::Command::new("true").spawn().unwrap();
        child.wait().unwrap();
        assert!(!super::is_alive(child.id()));
        assert!(!super::is_alive(0));
    }
}
