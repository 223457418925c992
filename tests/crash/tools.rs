//! The system's tools that the harness stands on, and whether they are here.

use std::path::Path;
use std::process::Command;

const PROGRAMS: [&str; 6] =
    ["qemu-storage-daemon", "losetup", "mount", "umount", "mkfs.ext4", "cp"];

/// What is missing to build a disk below a file system.
pub fn missing() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("only root may mount file systems".to_owned());
    }
    let device = ["/dev/fuse", "/dev/loop-control"].into_iter().find(|at| !Path::new(at).exists());
    if let Some(device) = device {
        return Some(format!("there is no {device}"));
    }
    PROGRAMS.into_iter().find(|program| !is_here(program)).map(|program| {
        format!("{program} is not installed (packages qemu-utils, e2fsprogs, util-linux, mount)")
    })
}

/// Whether a program is installed.
pub fn is_here(program: &str) -> bool {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&paths).any(|folder| folder.join(program).is_file())
}

/// Runs a command to its end; returns what it prints, or its complaint.
pub fn run(command: &mut Command) -> Result<String, String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().map_err(|error| format!("{name}: {error}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(format!("{name}: {}: {}", output.status, said.trim()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
