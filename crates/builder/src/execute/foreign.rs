//! Commands for another architecture: whether the kernel has an emulator to run them with.

use std::fs;
use std::io;
use std::path::Path;

use oci::manifest;

/// Where the kernel lists what it runs by way of interpreters (Documentation/admin-guide/binfmt-misc.rst).
const REGISTERED: &str = "/proc/sys/fs/binfmt_misc";

/// Whether this machine can run programs of an architecture, by its name in image configurations. One that is not
/// known here is taken for one that can be run.
pub(crate) fn can_run(architecture: &str) -> io::Result<bool> {
    let own = manifest::this_platform().architecture().to_string();
    let by_itself = matches!(
        (own.as_str(), architecture),
        ("amd64", "386") | ("arm64", "arm") | ("ppc64", "ppc64le")
    );
    let Some(machine) = machine(architecture).filter(|_| own != architecture && !by_itself) else {
        return Ok(true);
    };
    let entries = match fs::read_dir(Path::new(REGISTERED)) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let path = entry?.path();
        if path.ends_with("register") || path.ends_with("status") {
            continue;
        }
        match fs::read_to_string(&path) {
            Ok(text) if handles(&text, machine) => return Ok(true),
            Ok(_) => {}
            // Taken away a moment ago.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(false)
}

/// The number of an architecture in program files (`e_machine` of ELF).
fn machine(architecture: &str) -> Option<u16> {
    Some(match architecture {
        "386" => 3,
        "ppc64le" => 21,
        "s390x" => 22,
        "arm" => 40,
        "amd64" => 62,
        "arm64" => 183,
        "riscv64" => 243,
        "loong64" => 258,
        _ => return None,
    })
}

/// Whether an entry of the kernel's list is for a machine, and works in containers: its interpreter is opened when it
/// is registered (flag `F`), so it need not be in the image.
fn handles(entry: &str, machine: u16) -> bool {
    let field = |name: &str| entry.lines().find_map(|line| line.strip_prefix(name));
    let magic = field("magic ").and_then(|text| {
        let digits = (0..text.len()).step_by(2);
        digits
            .map(|at| u8::from_str_radix(text.get(at..at + 2)?, 16).ok())
            .collect::<Option<Vec<u8>>>()
    });
    let Some([0x7f, b'E', b'L', b'F', _, order, .., high, low]) =
        magic.as_deref().and_then(|magic| magic.get(..20))
    else {
        return false;
    };
    let found = match order {
        2 => u16::from_be_bytes([*high, *low]),
        _ => u16::from_le_bytes([*high, *low]),
    };
    let enabled = entry.lines().next() == Some("enabled");
    enabled && found == machine && field("flags: ").is_some_and(|flags| flags.contains('F'))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn entries_are_told_apart_by_their_magic() {
        let arm64 = "enabled\ninterpreter /usr/bin/qemu-aarch64-static\nflags: POCF\noffset 0\n\
                     magic 7f454c460201010000000000000000000200b700\nmask ffffffffffffff00fffffffffffffffffeffffff\n";
        let s390x = "enabled\ninterpreter /x\nflags: F\noffset 0\nmagic 7f454c4602020100000000000000000000020016\n";
        let java = "enabled\ninterpreter /usr/bin/jexec\nflags: \noffset 0\nmagic 504b0304\n";
        for (entry, architecture, expected) in [
            (arm64, "arm64", true),
            (arm64, "riscv64", false),
            (s390x, "s390x", true),
            (java, "arm64", false),
            (&arm64.replace("enabled", "disabled"), "arm64", false),
            (&arm64.replace("POCF", "POC"), "arm64", false),
            ("", "arm64", false),
            ("enabled\nmagic 7g\n", "arm64", false),
        ] {
            let found = handles(entry, machine(architecture).unwrap());
            assert_eq!(found, expected, "{architecture}: {entry}");
        }
    }

    #[test]
    fn this_machine_runs_its_own_programs() {
        let own = manifest::this_platform().architecture().to_string();
        assert!(can_run(&own).unwrap());
        assert!(can_run("something-new").unwrap());
    }
}
