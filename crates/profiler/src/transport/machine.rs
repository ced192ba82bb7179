//! What a device's kernel says of itself, in Rust's words.

/// `uname -m` as Rust names the architecture.
pub(crate) fn architecture(uname_m: &str) -> String {
    match uname_m {
        "arm64" | "armv8b" => "aarch64".to_owned(),
        "amd64" => "x86_64".to_owned(),
        "i386" | "i486" | "i586" | "i686" => "x86".to_owned(),
        arm if arm.starts_with("armv") => "arm".to_owned(),
        same => same.to_owned(),
    }
}

/// The Rust target of programs for a device.
pub(crate) fn target(architecture: &str, is_android: bool) -> String {
    match (is_android, architecture) {
        (true, "arm") => "armv7-linux-androideabi".to_owned(),
        (true, "x86") => "i686-linux-android".to_owned(),
        (true, other) => format!("{other}-linux-android"),
        (false, "arm") => "armv7-unknown-linux-gnueabihf".to_owned(),
        (false, "x86") => "i686-unknown-linux-gnu".to_owned(),
        (false, "riscv64") => "riscv64gc-unknown-linux-gnu".to_owned(),
        (false, other) => format!("{other}-unknown-linux-gnu"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_and_targets_have_names() {
        assert_eq!(architecture("armv7l"), "arm");
        assert_eq!(architecture("aarch64"), "aarch64");
        assert_eq!(architecture("i686"), "x86");
        assert_eq!(target("aarch64", true), "aarch64-linux-android");
        assert_eq!(target("arm", false), "armv7-unknown-linux-gnueabihf");
        assert_eq!(target("x86_64", false), "x86_64-unknown-linux-gnu");
    }
}
