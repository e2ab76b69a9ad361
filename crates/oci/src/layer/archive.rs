//! Reads tar archives entry by entry, with bounded memory. Our own, because readers for general use gather long names
//! and extended headers of any length before anyone can look at them.

use std::io::{self, Read};

use super::LayerError;

const BLOCK: usize = 512;
/// Most bytes of long names and extended headers before one entry: room for a path, a link and a few attributes of 64 KiB.
const MAX_EXTENSION: u64 = 1 << 20;
/// Longest path or link target, the kernel's bound.
const MAX_PATH: usize = 4096;

/// One object of a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    /// The path as the archive has it, not yet judged.
    pub(super) path: Vec<u8>,
    pub(super) kind: Kind,
    /// Permissions with set-user-id, set-group-id and sticky bit.
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Seconds since the epoch, and nanoseconds.
    pub(super) mtime: (i64, u32),
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    /// Its content is to be read with [`Archive::read_content`] before the next entry, or is passed over.
    File,
    Directory,
    Symlink(Vec<u8>),
    /// The path of another entry.
    HardLink(Vec<u8>),
    CharDevice(u32, u32),
    BlockDevice(u32, u32),
    Fifo,
}

/// What precedes an entry to say more about it than its header can.
#[derive(Debug, Default)]
struct Extensions {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    mtime: Option<(i64, u32)>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

#[derive(Debug)]
pub(super) struct Archive<R> {
    reader: R,
    /// Bytes of the current entry's content that were not read yet.
    content: u64,
    /// Bytes from the end of the content to the next header.
    padding: u64,
}

impl<R: Read> Archive<R> {
    pub(super) fn new(reader: R) -> Archive<R> {
        Archive {
            reader,
            content: 0,
            padding: 0,
        }
    }

    /// The next entry; none at the end of the archive.
    pub(super) fn next_entry(&mut self) -> Result<Option<Entry>, LayerError> {
        let mut extensions = Extensions::default();
        let mut allowed = MAX_EXTENSION;
        loop {
            self.skip(self.content + self.padding)?;
            (self.content, self.padding) = (0, 0);
            let Some(header) = self.read_header()? else {
                return Ok(None);
            };
            let size =
                number(&header[124..136]).ok_or_else(|| broken("header has an invalid size"))?;
            match header[156] {
                b'L' => extensions.path = Some(self.read_name(size, &mut allowed)?),
                b'K' => extensions.link = Some(self.read_name(size, &mut allowed)?),
                b'x' => {
                    let records = self.read_extension(size, &mut allowed)?;
                    read_records(&records, &mut extensions)?;
                }
                // Global headers hold comments; nothing that they could say of all entries is wanted here.
                b'g' => {
                    self.read_extension(size, &mut allowed)?;
                }
                kind => return self.entry(&header, kind, size, extensions).map(Some),
            }
        }
    }

    /// Reads from the content of the current entry.
    pub(super) fn read_content(&mut self, buffer: &mut [u8]) -> Result<usize, LayerError> {
        let wanted = buffer
            .len()
            .min(usize::try_from(self.content).unwrap_or(usize::MAX));
        if wanted == 0 {
            return Ok(0);
        }
        loop {
            match self.reader.read(&mut buffer[..wanted]) {
                Ok(0) => return Err(broken("archive ends within a file")),
                Ok(read) => {
                    self.content -= read as u64;
                    return Ok(read);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(LayerError::Read(error)),
            }
        }
    }

    pub(super) fn into_reader(self) -> R {
        self.reader
    }

    fn entry(
        &mut self,
        header: &[u8; BLOCK],
        kind: u8,
        size: u64,
        extensions: Extensions,
    ) -> Result<Entry, LayerError> {
        let path = extensions.path.unwrap_or_else(|| header_path(header));
        let refuse = |reason: &str| LayerError::entry(&path, reason);
        if path.len() > MAX_PATH {
            return Err(refuse("has too long a path"));
        }
        let field = |range: std::ops::Range<usize>| {
            number(&header[range]).ok_or_else(|| refuse("has an invalid number in its header"))
        };
        let small = |number: u64| {
            u32::try_from(number)
                .ok()
                .filter(|number| *number != u32::MAX)
        };
        let owner = |given: Option<u64>, range| {
            let number = given.map_or_else(|| field(range), Ok)?;
            small(number).ok_or_else(|| refuse("has an owner that is out of range"))
        };
        let link = || {
            let link = extensions
                .link
                .clone()
                .unwrap_or_else(|| until_nul(&header[157..257]).to_vec());
            match link.is_empty() || link.len() >= MAX_PATH || link.contains(&0) {
                true => Err(refuse("has an invalid link target")),
                false => Ok(link),
            }
        };
        let device = || {
            let (major, minor) = (small(field(329..337)?), small(field(337..345)?));
            major
                .zip(minor)
                .ok_or_else(|| refuse("has a device number that is out of range"))
        };
        let kind = match kind {
            // Before directories had a type of their own they were files with a slash at the end.
            0 | b'0' if path.ends_with(b"/") => Kind::Directory,
            0 | b'0' | b'7' => Kind::File,
            b'1' => Kind::HardLink(link()?),
            b'2' => Kind::Symlink(link()?),
            b'3' => device().map(|(major, minor)| Kind::CharDevice(major, minor))?,
            b'4' => device().map(|(major, minor)| Kind::BlockDevice(major, minor))?,
            b'5' => Kind::Directory,
            b'6' => Kind::Fifo,
            b'S' => return Err(refuse("is a sparse file, which is not supported")),
            other => return Err(refuse(&format!("has the unknown type {other}"))),
        };
        if kind == Kind::File {
            self.content = extensions.size.unwrap_or(size);
            self.padding = self.content.wrapping_neg() % BLOCK as u64;
        }
        let mtime = match extensions.mtime {
            Some(mtime) => mtime,
            None => (i64::try_from(field(136..148)?).unwrap_or_default(), 0),
        };
        Ok(Entry {
            mode: (field(100..108)? & 0o7777) as u32,
            uid: owner(extensions.uid, 108..116)?,
            gid: owner(extensions.gid, 116..124)?,
            mtime,
            xattrs: extensions.xattrs,
            kind,
            path,
        })
    }

    /// The next header whose checksum is right; none at the end.
    fn read_header(&mut self) -> Result<Option<[u8; BLOCK]>, LayerError> {
        let mut header = [0; BLOCK];
        let mut filled = 0;
        while filled < BLOCK {
            match self.reader.read(&mut header[filled..]) {
                // Some writers leave out the blocks of zeros at the end.
                Ok(0) if filled == 0 => return Ok(None),
                Ok(0) => return Err(broken("archive ends within a header")),
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(LayerError::Read(error)),
            }
        }
        if header.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        // The sum is made with the field itself as spaces.
        let sum = |bytes: &[u8]| bytes.iter().map(|byte| u64::from(*byte)).sum::<u64>();
        let expected = sum(&header[..148]) + 8 * u64::from(b' ') + sum(&header[156..]);
        match number(&header[148..156]) {
            Some(found) if found == expected => Ok(Some(header)),
            _ => Err(broken("header has a wrong checksum")),
        }
    }

    fn read_name(&mut self, size: u64, allowed: &mut u64) -> Result<Vec<u8>, LayerError> {
        Ok(until_nul(&self.read_extension(size, allowed)?).to_vec())
    }

    fn read_extension(&mut self, size: u64, allowed: &mut u64) -> Result<Vec<u8>, LayerError> {
        // Empty ones count too, or they could go on for ever.
        *allowed = allowed
            .checked_sub(size.max(BLOCK as u64))
            .ok_or(LayerError::TooLarge {
                limit: MAX_EXTENSION,
                unit: "bytes of extended headers before one entry",
            })?;
        let mut extension = vec![0; size as usize];
        self.reader
            .read_exact(&mut extension)
            .map_err(LayerError::Read)?;
        self.padding = size.wrapping_neg() % BLOCK as u64;
        Ok(extension)
    }

    fn skip(&mut self, length: u64) -> Result<(), LayerError> {
        match io::copy(&mut self.reader.by_ref().take(length), &mut io::sink()) {
            Ok(skipped) if skipped == length => Ok(()),
            Ok(_) => Err(broken("archive ends within an entry")),
            Err(error) => Err(LayerError::Read(error)),
        }
    }
}

fn broken(reason: &'static str) -> LayerError {
    LayerError::Read(io::Error::new(io::ErrorKind::InvalidData, reason))
}

fn until_nul(bytes: &[u8]) -> &[u8] {
    let end = bytes
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(bytes.len());
    &bytes[..end]
}

/// The path in a header: POSIX headers have a prefix field for longer ones.
fn header_path(header: &[u8; BLOCK]) -> Vec<u8> {
    let name = until_nul(&header[..100]);
    match &header[257..263] == b"ustar\0" {
        true => match until_nul(&header[345..500]) {
            b"" => name.to_vec(),
            prefix => [prefix, name].join(&b'/'),
        },
        false => name.to_vec(),
    }
}

/// A number of a header: octal digits between spaces and NULs, or, with the first bit set, big-endian binary.
/// Negative numbers are refused.
fn number(field: &[u8]) -> Option<u64> {
    if field[0] & 0x80 != 0 {
        let start = u64::from(field[0] & 0x7f);
        return field[1..].iter().try_fold(start, |number, byte| {
            number
                .checked_mul(256)
                .map(|number| number | u64::from(*byte))
        });
    }
    let text = until_nul(field).trim_ascii();
    text.iter().try_fold(0u64, |number, byte| match byte {
        b'0'..=b'7' => number
            .checked_mul(8)
            .map(|number| number | u64::from(byte - b'0')),
        _ => None,
    })
}

/// Reads the records of an extended header: `LENGTH KEY=VALUE\n`, where the length counts itself.
fn read_records(mut records: &[u8], extensions: &mut Extensions) -> Result<(), LayerError> {
    while !records.is_empty() {
        let invalid = || broken("extended header is malformed");
        let space = records
            .iter()
            .take(20)
            .position(|byte| *byte == b' ')
            .ok_or_else(invalid)?;
        let length = decimal(&records[..space])
            .and_then(|length| usize::try_from(length).ok())
            .ok_or_else(invalid)?;
        let record = records.get(space + 1..length).ok_or_else(invalid)?;
        let record = record.strip_suffix(b"\n").ok_or_else(invalid)?;
        let equals = record
            .iter()
            .position(|byte| *byte == b'=')
            .ok_or_else(invalid)?;
        let (key, value) = (&record[..equals], &record[equals + 1..]);
        let number = || decimal(value).map(Some).ok_or_else(invalid);
        match key {
            b"path" => extensions.path = Some(value.to_vec()),
            b"linkpath" => extensions.link = Some(value.to_vec()),
            b"size" => extensions.size = number()?,
            b"uid" => extensions.uid = number()?,
            b"gid" => extensions.gid = number()?,
            b"mtime" => extensions.mtime = Some(time(value).ok_or_else(invalid)?),
            key if key.starts_with(b"GNU.sparse.") => {
                return Err(broken("archive has a sparse file, which is not supported"));
            }
            key => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    extensions.xattrs.push((name.to_vec(), value.to_vec()));
                }
            }
        }
        records = &records[length..];
    }
    Ok(())
}

fn decimal(digits: &[u8]) -> Option<u64> {
    let valid = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    valid
        .then(|| std::str::from_utf8(digits).ok()?.parse().ok())
        .flatten()
}

/// Seconds with an optional sign and fraction, as in `-1.5`.
fn time(text: &[u8]) -> Option<(i64, u32)> {
    let text = std::str::from_utf8(text).ok()?;
    let (negative, text) = text
        .strip_prefix('-')
        .map_or((false, text), |text| (true, text));
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds = i64::try_from(decimal(seconds.as_bytes())?).ok()?;
    let nanoseconds = match &fraction.as_bytes()[..fraction.len().min(9)] {
        b"" => 0,
        digits => u32::try_from(decimal(digits)?).ok()? * 10u32.pow(9 - digits.len() as u32),
    };
    Some(match (negative, nanoseconds) {
        (false, nanoseconds) => (seconds, nanoseconds),
        (true, 0) => (-seconds, 0),
        (true, nanoseconds) => (-seconds - 1, 1_000_000_000 - nanoseconds),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_numbers_as_writers_write_them() {
        let cases: [(&[u8], Option<u64>); 10] = [
            (b"0000644\0", Some(0o644)),
            (b"   644 \0", Some(0o644)),
            (b"644     ", Some(0o644)),
            (b"\0\0\0\0\0\0\0\0", Some(0)),
            (b"        ", Some(0)),
            (b"0000648\0", None),
            (b"-000644\0", None),
            (&[0x80, 0, 0, 0, 0, 0, 1, 2], Some(258)),
            (&[0xff; 12], None),
            (b"77777777777777777777777\0", None),
        ];
        for (field, expected) in cases {
            assert_eq!(number(field), expected, "{field:?}");
        }
    }

    #[test]
    fn reads_times() {
        let cases = [
            ("0", Some((0, 0))),
            ("1.5", Some((1, 500_000_000))),
            ("1.0000000019", Some((1, 1))),
            ("-1", Some((-1, 0))),
            ("-1.25", Some((-2, 750_000_000))),
            ("1.", Some((1, 0))),
            ("", None),
            (".5", None),
            ("1.x", None),
            ("1e5", None),
            ("9223372036854775808", None),
        ];
        for (text, expected) in cases {
            assert_eq!(time(text.as_bytes()), expected, "{text}");
        }
    }

    #[test]
    fn malformed_records_are_errors() {
        for records in [
            "x",
            "5 a=b",
            "6 a=b\nrest",
            "3 a=b\n",
            "99 a=b\n",
            "6 aab\n",
            " a=b\n",
            "0 ",
            "18446744073709551616 a=b\n",
        ] {
            let result = read_records(records.as_bytes(), &mut Extensions::default());
            assert!(result.is_err(), "{records}");
        }
        let mut extensions = Extensions::default();
        assert!(read_records(b"6 a=b\n21 SCHILY.xattr.a=b\n", &mut extensions).is_err());
        assert!(read_records(b"6 a=b\n19 SCHILY.xattr.a=\n", &mut extensions).is_ok());
        assert_eq!(extensions.xattrs, [(b"a".to_vec(), Vec::new())]);
    }

    /// Reads everything there is, as unpacking would.
    fn read_all(bytes: &[u8]) {
        let mut archive = Archive::new(bytes);
        let mut buffer = [0; 100];
        while let Ok(Some(_)) = archive.next_entry() {
            while let Ok(1..) = archive.read_content(&mut buffer) {}
        }
    }

    proptest::proptest! {
        #[test]
        fn anything_can_be_read(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..4096)) {
            read_all(&bytes);
        }

        /// Headers that pass the checksum, so that what is behind it is reached.
        #[test]
        fn anything_with_a_checksum_can_be_read(
            mut bytes in proptest::collection::vec(proptest::num::u8::ANY, 512 * 4),
            kind in proptest::sample::select(b"0123456xgLKS".to_vec()),
            size in 0u32..2000,
        ) {
            for header in bytes.chunks_mut(BLOCK * 2) {
                header[124..136].copy_from_slice(format!("{size:011o}\0").as_bytes());
                header[156] = kind;
                header[148..156].fill(b' ');
                let sum: u32 = header[..BLOCK].iter().map(|byte| u32::from(*byte)).sum();
                header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
            }
            read_all(&bytes);
        }

        #[test]
        fn any_records_can_be_read(records in "([0-9]{1,2} [a-z.SCHILYxatr]{0,12}=[0-9.-]{0,9}\n){0,4}") {
            let _ = read_records(records.as_bytes(), &mut Extensions::default());
        }
    }
}
