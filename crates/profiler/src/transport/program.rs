//! For which processor a program is: the first bytes of an ELF file.

use std::fs::File;
use std::io::Read;
use std::path::Path;

/// Architecture of an ELF file in Rust's name; `None` for anything else, such as a script.
pub(crate) fn architecture(path: &Path) -> Option<String> {
    let mut header = [0; 20];
    File::open(path).ok()?.read_exact(&mut header).ok()?;
    if &header[..4] != b"\x7fELF" {
        return None;
    }
    let number = [header[18], header[19]];
    let machine = match header[5] {
        1 => u16::from_le_bytes(number),
        _ => u16::from_be_bytes(number),
    };
    Some(match machine {
        3 => "x86".to_owned(),
        40 => "arm".to_owned(),
        62 => "x86_64".to_owned(),
        183 => "aarch64".to_owned(),
        243 => "riscv64".to_owned(),
        other => format!("ELF machine {other}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_told_apart() {
        let this = std::env::current_exe().unwrap();
        if cfg!(target_os = "linux") {
            assert_eq!(architecture(&this).unwrap(), std::env::consts::ARCH);
        }
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        let mut header = *b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x03\0\xb7\0";
        std::fs::write(&file, header).unwrap();
        assert_eq!(architecture(&file).unwrap(), "aarch64");
        header[5] = 2;
        std::fs::write(&file, header).unwrap();
        assert_eq!(architecture(&file).unwrap(), "ELF machine 46848");
        for other in [&header[..19], b"#!/bin/sh\nexec something longer\n"] {
            std::fs::write(&file, other).unwrap();
            assert_eq!(architecture(&file), None);
        }
    }
}
