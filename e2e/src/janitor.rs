//! One small helper process that cleans up after this one, however it ends:
//! a test binary that is killed, or that keeps a server in a static, leaves
//! neither servers nor folders behind.
//!
//! It learns over a pipe what was started and what was already stopped, and
//! acts when the pipe closes, which the kernel sees to.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, OnceLock};

/// Reads `group ID`, `gentle ID`, `gone ID` and `folder PATH` lines; at their
/// end asks the gentle ones to end, kills the process groups that are left and
/// removes the folders.
const SCRIPT: &str = r#"
trap '' INT TERM HUP
groups=
gentle=
while read -r verb what; do
    case $verb in
        group) groups="$groups $what" ;;
        gentle) gentle="$gentle $what" ;;
        gone)
            left=
            for group in $groups; do [ "$group" = "$what" ] || left="$left $group"; done
            groups=$left
            left=
            for one in $gentle; do [ "$one" = "$what" ] || left="$left $one"; done
            gentle=$left ;;
        folder) set -- "$@" "$what" ;;
    esac
done
for one in $gentle; do kill -s TERM -- "$one"; done
for one in $gentle; do
    for try in 1 2 3 4 5 6 7 8 9 10; do
        kill -s 0 -- "$one" || break
        sleep 1
    done
done
for group in $groups; do kill -s KILL -- "-$group"; done
for try in 1 2 3 4 5; do
    rm -rf -- "$@" && break
    sleep 1
done
"#;

static JANITOR: OnceLock<Option<Mutex<Child>>> = OnceLock::new();

fn tell(line: &str) {
    let janitor = JANITOR.get_or_init(|| {
        Command::new("sh")
            .args(["-c", SCRIPT, "janitor"])
            .current_dir("/")
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .ok()
            .map(Mutex::new)
    });
    // Without a janitor the guards still clean up on every ordinary way out.
    if let Some(janitor) = janitor
        && let Ok(mut janitor) = janitor.lock()
        && let Some(pipe) = janitor.stdin.as_mut()
    {
        let _ = writeln!(pipe, "{line}");
    }
}

/// A process group that is to be killed should this process end first.
pub(crate) fn group_started(id: u32) {
    tell(&format!("group {id}"));
}

/// A process, known as a group already, that cleans up when it is asked to end.
pub(crate) fn ends_gently(id: u32) {
    tell(&format!("gentle {id}"));
}

/// The process group was stopped and its id may belong to others now.
pub(crate) fn group_gone(id: u32) {
    tell(&format!("gone {id}"));
}

/// A folder that is to be removed should this process end first.
pub(crate) fn folder_made(path: &std::path::Path) {
    tell(&format!("folder {}", path.display()));
}
