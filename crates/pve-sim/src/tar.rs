//! Reading and writing tar archives of small files (POSIX.1-1988 headers), as `--extra-files` needs.

/// The regular files of an archive with their contents; nothing if it is none.
pub fn read(archive: &[u8]) -> Option<Vec<(String, Vec<u8>)>> {
    let mut files = Vec::new();
    let mut rest = archive;
    while rest.len() >= 512 {
        let (header, tail) = rest.split_at(512);
        if header.iter().all(|b| *b == 0) {
            return Some(files);
        }
        let name = text(&header[..100])?;
        let size = usize::from_str_radix(text(&header[124..136])?.trim(), 8).ok()?;
        let padded = size.div_ceil(512) * 512;
        let content = tail.get(..size)?;
        if matches!(header[156], b'0' | 0) {
            files.push((name.trim_start_matches("./").to_owned(), content.to_vec()));
        }
        rest = tail.get(padded..)?;
    }
    rest.is_empty().then_some(files)
}

fn text(field: &[u8]) -> Option<&str> {
    let end = field.iter().position(|b| *b == 0).unwrap_or(field.len());
    std::str::from_utf8(&field[..end]).ok()
}

/// An archive of regular files: name, mode, content. Names of up to 100 bytes.
pub fn write(files: &[(String, u32, Vec<u8>)]) -> Option<Vec<u8>> {
    let mut archive = Vec::new();
    for (name, mode, content) in files {
        let mut header = [0u8; 512];
        let name = format!("./{name}");
        header.get_mut(..name.len()).filter(|_| name.len() <= 100)?.copy_from_slice(name.as_bytes());
        let mut field = |at: usize, text: String| {
            if let Some(place) = header.get_mut(at..at + text.len()) {
                place.copy_from_slice(text.as_bytes());
            }
        };
        field(100, format!("{:07o}", mode & 0o7777));
        field(108, format!("{:07o}", 0));
        field(116, format!("{:07o}", 0));
        field(124, format!("{:011o}", content.len()));
        field(136, format!("{:011o}", 0));
        field(148, " ".repeat(8));
        field(156, "0".to_owned());
        field(257, "ustar".to_owned());
        field(263, "00".to_owned());
        let sum: u32 = header.iter().map(|b| u32::from(*b)).sum();
        let sum = format!("{sum:06o}\0 ");
        header[148..156].copy_from_slice(sum.as_bytes());
        archive.extend_from_slice(&header);
        archive.extend_from_slice(content);
        archive.resize(archive.len().div_ceil(512) * 512, 0);
    }
    archive.resize(archive.len() + 1024, 0);
    Some(archive)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let files = vec![
            ("etc/ssh/key".to_owned(), 0o600, b"secret".to_vec()),
            ("b".to_owned(), 0o644, vec![7; 1500]),
        ];
        let archive = write(&files).unwrap();
        let expected: Vec<(String, Vec<u8>)> = files.into_iter().map(|(n, _, c)| (n, c)).collect();
        assert_eq!(read(&archive).unwrap(), expected);
        assert_eq!(read(b"no archive"), None);
    }
}
