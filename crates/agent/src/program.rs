//! The agent's own program file, which an update may replace while it runs.

use std::path::Path;

/// What the kernel appends to the path of a program whose file is gone.
const GONE: &str = " (deleted)";

/// Whether another program is now where this one was started from.
pub(crate) fn was_replaced() -> bool {
    std::fs::read_link("/proc/self/exe").is_ok_and(|program| is_replaced(&program))
}

fn is_replaced(program: &Path) -> bool {
    let path = program.to_str().and_then(|path| path.strip_suffix(GONE));
    path.is_some_and(|path| Path::new(path).is_file())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_program_is_replaced_when_its_file_is_gone_and_another_one_there() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("caprock");
        let gone = format!("{}{GONE}", path.display());
        assert!(!is_replaced(&path));
        assert!(!is_replaced(Path::new(&gone)), "removed, not replaced");
        std::fs::write(&path, "new").unwrap();
        assert!(is_replaced(Path::new(&gone)));
        assert!(!was_replaced());
    }
}
