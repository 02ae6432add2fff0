//! `seed NAME --output FILE`: the documents as an image that the NoCloud datasource finds, for machines that are
//! not on Proxmox.

use std::{
    io::{Cursor, Write},
    path::PathBuf,
};

use fatfs::{FileSystem, FormatVolumeOptions, FsOptions, format_volume};
use fleet_core::{Error, Result};
use serde_json::json;

use crate::{
    Context,
    all::{Choices, write_whole},
};

/// cloud-init looks for a file system of this name (NoCloud, "labelled vfat or iso9660 filesystem").
const LABEL: [u8; 11] = *b"CIDATA     ";

/// Room for everything else in the image besides the documents: tables, directory, half-filled clusters.
const SPARE_BYTES: usize = 64 * 1024;

/// The smallest image, that of a floppy disk.
const LEAST_BYTES: usize = 1440 * 1024;

/// Arguments of `seed`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A VM of vms/definitions.nix
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) choices: Choices,
    /// The image to write; replaced if it is there
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: PathBuf,
}

/// Writes the image.
pub(crate) fn run(context: &Context, args: &Args) -> Result<()> {
    let subject = context.subject(&args.name)?;
    let name = subject.name;
    let documents = args.choices.documents(&subject, &context.keys(&subject)?)?;
    let image = image(&documents).map_err(|e| Error::failed("can not make the image").caused_by(e))?;
    write_whole(&args.output, &image)?;
    let answer = json!({ "name": name, "files": [&args.output] });
    context.ui.answer(&answer, || args.output.display().to_string())
}

/// A FAT file system with these files; the same bytes for the same files.
fn image(files: &[(&str, String)]) -> std::io::Result<Vec<u8>> {
    let content: usize = files.iter().map(|(_, text)| text.len()).sum();
    let size = (content + SPARE_BYTES).max(LEAST_BYTES).next_multiple_of(512);
    let mut image = Cursor::new(vec![0; size]);
    format_volume(&mut image, FormatVolumeOptions::new().volume_label(LABEL))?;
    {
        let volume = FileSystem::new(&mut image, FsOptions::new())?;
        for (name, text) in files {
            volume.root_dir().create_file(name)?.write_all(text.as_bytes())?;
        }
        volume.unmount()?;
    }
    Ok(image.into_inner())
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn the_image_holds_the_files_under_their_names() {
        let files =
            [("user-data", "#cloud-config\n".repeat(50_000)), ("meta-data", "instance-id: x\n".to_owned())];
        let bytes = image(&files).unwrap();
        assert_eq!(bytes, image(&files).unwrap());
        let volume = FileSystem::new(Cursor::new(bytes), FsOptions::new()).unwrap();
        assert_eq!(volume.volume_label(), "CIDATA");
        for (name, text) in &files {
            let mut read = String::new();
            volume.root_dir().open_file(name).unwrap().read_to_string(&mut read).unwrap();
            assert_eq!(&read, text);
        }
        assert_eq!(volume.root_dir().iter().filter(|e| e.as_ref().unwrap().is_file()).count(), 2);
    }

    #[test]
    fn large_documents_fit() {
        assert!(image(&[("user-data", "x".repeat(3 << 20))]).is_ok());
    }
}
