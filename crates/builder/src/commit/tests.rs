#![allow(clippy::unwrap_used, clippy::print_stderr)]
use std::fs::File;
use std::os::unix::fs::{PermissionsExt as _, symlink};

use rustix::fs::XattrFlags;

use super::*;

struct Lab {
    dir: tempfile::TempDir,
}

#[derive(Debug, PartialEq, Eq)]
struct Packed {
    diff_id: Digest,
    blob: Vec<u8>,
}

/// Commits a tree in both ways, which must agree.
fn commit(upper: &Path, lower: &Path, times: Times) -> Option<Packed> {
    let layers = [lower.to_path_buf()];
    let changes = settle(
        upper,
        times,
        &Lower {
            layers: &layers,
            marks: Marks::Trusted,
        },
    )
    .unwrap();
    if changes.is_empty() {
        return None;
    }
    let mut blob = Vec::new();
    let diff_id = pack_and_name(upper, &changes, Compression::default(), &mut blob).unwrap();
    let again = relist(upper, Marks::Trusted).unwrap();
    assert_eq!(super::diff_id(upper, &again).unwrap(), diff_id);
    let mut second = Vec::new();
    pack(upper, &again, Compression::default(), &mut second).unwrap();
    assert!(second == blob);
    Some(Packed { diff_id, blob })
}

const NOW: Times = Times {
    since: 0,
    epoch: 1_700_000_000,
};

impl Lab {
    fn new() -> Lab {
        let dir = tempfile::tempdir().unwrap();
        for name in ["upper", "lower"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        Lab { dir }
    }

    fn upper(&self, path: &str) -> PathBuf {
        self.dir.path().join("upper").join(path)
    }

    fn commit(&self, times: Times) -> Option<Packed> {
        commit(&self.upper(""), &self.dir.path().join("lower"), times)
    }

    /// The entries of a layer, one a line.
    fn entries(&self, layer: &Packed) -> Vec<String> {
        let plain = flate2::read::MultiGzDecoder::new(&layer.blob[..]);
        let mut archive = ::tar::Archive::new(plain);
        let mut lines = Vec::new();
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let header = entry.header().clone();
            let mut line = format!(
                "{:?} {} {:o} {}",
                header.entry_type(),
                entry.path().unwrap().display(),
                header.mode().unwrap(),
                header.mtime().unwrap()
            );
            if let Some(link) = entry.link_name().unwrap() {
                line += &format!(" -> {}", link.display());
            }
            for extension in entry.pax_extensions().unwrap().into_iter().flatten() {
                let extension = extension.unwrap();
                if extension.key().unwrap().starts_with("SCHILY") {
                    line += &format!(
                        " {}={:?}",
                        extension.key().unwrap(),
                        extension.value_bytes()
                    );
                }
            }
            lines.push(line);
        }
        lines
    }
}

#[test]
fn entries_are_sorted_and_have_the_time_of_the_epoch() {
    let lab = Lab::new();
    fs::create_dir_all(lab.upper("b/c")).unwrap();
    fs::write(lab.upper("b/z"), "content").unwrap();
    fs::set_permissions(lab.upper("b/z"), fs::Permissions::from_mode(0o4755)).unwrap();
    fs::hard_link(lab.upper("b/z"), lab.upper("b/c/first")).unwrap();
    symlink("../x", lab.upper("a")).unwrap();
    fs::set_permissions(lab.upper("b"), fs::Permissions::from_mode(0o750)).unwrap();
    fs::set_permissions(lab.upper("b/c"), fs::Permissions::from_mode(0o700)).unwrap();
    let layer = lab.commit(NOW).unwrap();
    assert_eq!(
        lab.entries(&layer),
        [
            "Symlink a 777 1700000000 -> ../x",
            "Directory b/ 750 1700000000",
            "Directory b/c/ 700 1700000000",
            "Regular b/c/first 4755 1700000000",
            "Link b/z 4755 1700000000 -> b/c/first",
        ]
    );
    let on_disk = fs::metadata(lab.upper("b/z")).unwrap().modified().unwrap();
    assert_eq!(
        on_disk,
        std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_700_000_000)
    );
    assert_eq!(
        lab.commit(NOW),
        Some(layer),
        "the same tree is the same layer"
    );
}

#[test]
fn times_set_on_purpose_stay() {
    let lab = Lab::new();
    fs::write(lab.upper("old"), "").unwrap();
    fs::write(lab.upper("new"), "").unwrap();
    let old = std::time::UNIX_EPOCH + std::time::Duration::new(1_000_000_000, 5);
    File::options()
        .write(true)
        .open(lab.upper("old"))
        .unwrap()
        .set_modified(old)
        .unwrap();
    let layer = lab
        .commit(Times {
            since: 1_500_000_000,
            epoch: 7,
        })
        .unwrap();
    let entries = lab.entries(&layer);
    assert!(entries[0].ends_with("new 644 7"), "{entries:?}");
    assert!(entries[1].ends_with("old 644 1000000000"), "{entries:?}");
}

#[test]
fn nothing_changed_is_no_layer() {
    let lab = Lab::new();
    assert_eq!(lab.commit(NOW), None);
    // A directory that was only passed through.
    for name in ["upper", "lower"] {
        fs::create_dir_all(lab.dir.path().join(name).join("var/tmp")).unwrap();
    }
    assert_eq!(lab.commit(NOW), None);
    assert!(!lab.upper("var").exists());
    fs::create_dir_all(lab.upper("var/tmp")).unwrap();
    fs::set_permissions(lab.upper("var/tmp"), fs::Permissions::from_mode(0o700)).unwrap();
    assert_eq!(lab.entries(&lab.commit(NOW).unwrap()).len(), 2);
}

#[test]
fn long_names_and_attributes_take_pax_headers() {
    let lab = Lab::new();
    let long = "x".repeat(200);
    fs::write(lab.upper(&long), "").unwrap();
    symlink("y".repeat(150), lab.upper("link")).unwrap();
    let attribute = rustix::fs::lsetxattr(
        lab.upper(&long),
        "user.note",
        b"\x00\xffvalue",
        XattrFlags::empty(),
    );
    let layer = lab.commit(NOW).unwrap();
    let entries = lab.entries(&layer);
    assert!(
        entries[0].ends_with(&format!(" -> {}", "y".repeat(150))),
        "{entries:?}"
    );
    assert!(entries[1].contains(&long), "{entries:?}");
    if attribute.is_ok() {
        assert!(
            entries[1].contains("SCHILY.xattr.user.note=[0, 255, 118"),
            "{entries:?}"
        );
    }
}

#[test]
fn privileged_whiteouts_devices_and_capabilities() {
    // A whiteout is a device, which takes the superuser.
    if std::env::var("CAPROCK_TEST_PRIVILEGED").as_deref() != Ok("1") {
        eprintln!("skipped: CAPROCK_TEST_PRIVILEGED is not 1");
        return;
    }
    let lab = Lab::new();
    fs::create_dir(lab.dir.path().join("lower/opaque")).unwrap();
    for name in ["opaque", "new"] {
        fs::create_dir(lab.upper(name)).unwrap();
        rustix::fs::lsetxattr(
            lab.upper(name),
            Marks::Trusted.opaque(),
            b"y",
            XattrFlags::empty(),
        )
        .unwrap();
    }
    fs::write(lab.upper("opaque/kept"), "").unwrap();
    let device = |name: &str, kind, number| {
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(CWD, lab.upper(name), kind, mode, number).unwrap();
    };
    device("gone", FileType::CharacterDevice, 0);
    device("null", FileType::CharacterDevice, rustix::fs::makedev(1, 3));
    device("pipe", FileType::Fifo, 0);
    device("socket", FileType::Socket, 0);
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    fs::write(lab.upper("ping"), "").unwrap();
    rustix::fs::lsetxattr(
        lab.upper("ping"),
        "security.capability",
        &capability,
        XattrFlags::empty(),
    )
    .unwrap();
    let layer = lab.commit(NOW).unwrap();
    let entries = lab.entries(&layer);
    assert_eq!(
        entries[..6],
        [
            "Regular .wh.gone 0 0",
            "Directory new/ 755 1700000000",
            "Char null 600 1700000000",
            "Directory opaque/ 755 1700000000",
            "Regular opaque/.wh..wh..opq 0 0",
            "Regular opaque/kept 644 1700000000",
        ]
    );
    assert!(
        entries[6]
            .starts_with("Regular ping 644 1700000000 SCHILY.xattr.security.capability=[1, 0"),
        "{entries:?}"
    );
    assert_eq!(entries[7..], ["Fifo pipe 600 1700000000"]);
    // What is unpacked again is what was committed.
    let again = lab.dir.path().join("again");
    fs::create_dir(&again).unwrap();
    let options = oci::layer::Options {
        whiteouts: oci::layer::Whiteouts::Overlay(Marks::Trusted),
        privilege: oci::layer::Privilege::Full,
        limits: oci::layer::Limits::default(),
    };
    let stats = oci::layer::unpack(
        &layer.blob[..],
        "application/vnd.oci.image.layer.v1.tar+gzip",
        &again,
        &options,
    )
    .unwrap();
    assert_eq!(stats.diff_id, layer.diff_id);
    assert_eq!(
        commit(&again, &lab.dir.path().join("lower"), NOW),
        Some(layer)
    );
}

#[test]
fn privileged_a_stack_of_layers_is_seen_as_the_kernel_shows_it() {
    if std::env::var("CAPROCK_TEST_PRIVILEGED").as_deref() != Ok("1") {
        eprintln!("skipped: CAPROCK_TEST_PRIVILEGED is not 1");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let layers: Vec<PathBuf> = ["1", "2", "3"].map(|name| dir.path().join(name)).into();
    for path in ["1/a/b", "1/c/d", "1/e/f", "1/g", "2/c", "2/g/h", "3/c/x"] {
        fs::create_dir_all(dir.path().join(path)).unwrap();
    }
    rustix::fs::lsetxattr(
        layers[1].join("c"),
        Marks::Trusted.opaque(),
        b"y",
        XattrFlags::empty(),
    )
    .unwrap();
    let mode = rustix::fs::Mode::from_raw_mode(0);
    rustix::fs::mknodat(CWD, layers[2].join("e"), FileType::CharacterDevice, mode, 0).unwrap();
    fs::write(layers[0].join("a/file"), "").unwrap();
    let lower = Lower {
        layers: &layers,
        marks: Marks::Trusted,
    };
    for (path, expected) in [
        ("a/b", Some("1/a/b")),
        ("c", Some("3/c")),
        ("c/d", None),
        ("c/x", Some("3/c/x")),
        ("e", None),
        ("e/f", None),
        ("g", Some("2/g")),
        ("a/file", None),
        ("a/file/x", None),
        ("none", None),
    ] {
        let found = lower.directory(Path::new(path)).unwrap();
        let expected = expected.map(|place| dir.path().join(place));
        assert_eq!(found.map(|(place, _)| place), expected, "{path}");
    }
}
