//! Names that reach other programs: hosts, users, serial numbers, folders.

/// Most characters of a name. DNS allows 253.
const LONGEST: usize = 253;

/// Nothing that another program could take for an option, and no character but `also` beyond
/// letters and digits; what is wrong, otherwise.
fn check(name: &str, what: &str, also: &str) -> Result<(), String> {
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || also.contains(c);
    match name {
        "" => Err(format!("{what} is empty")),
        _ if name.starts_with('-') => Err(format!("{what} {name:?} begins with `-`")),
        _ if name.len() > LONGEST => Err(format!("{what} is longer than {LONGEST} characters")),
        _ => match name.chars().find(|c| !is_allowed(*c)) {
            None => Ok(()),
            Some(c) => Err(format!("{what} {name:?} holds {c:?}")),
        },
    }
}

/// A device's name, which is part of file names.
pub fn check_device(name: &str) -> Result<(), String> {
    check(name, "name", "-_.")?;
    match name.starts_with('.') {
        true => Err(format!("name {name:?} begins with `.`")),
        false => Ok(()),
    }
}

/// A host name, an address (IPv6 with its zone), or an alias of the user's ssh configuration.
pub fn check_host(name: &str) -> Result<(), String> {
    check(name, "ssh.host", "-_.:%")
}

/// A user's name.
pub fn check_user(name: &str) -> Result<(), String> {
    check(name, "ssh.user", "-_.")
}

/// A serial number, or HOST:PORT, as `adb devices` lists it.
pub fn check_serial(name: &str) -> Result<(), String> {
    check(name, "adb.serial", "-_.:[]")
}

/// A folder on a device: absolute, without control characters.
pub fn check_folder(name: &str) -> Result<(), String> {
    if !name.starts_with('/') {
        return Err(format!("folder {name:?} is no absolute path"));
    }
    match name.chars().find(|c| c.is_control()) {
        None => Ok(()),
        Some(c) => Err(format!("folder {name:?} holds {c:?}")),
    }
}

/// Adds the expected name nearest to an unknown one to what serde says of it.
pub fn with_suggestion(message: &str) -> String {
    let quoted: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
    let is_unknown = message.contains("unknown field") || message.contains("unknown variant");
    let [unknown, expected @ ..] = &quoted[..] else {
        return message.to_owned();
    };
    let distance = |name: &&&str| strsim::damerau_levenshtein(unknown, name);
    match expected.iter().min_by_key(distance).filter(|_| is_unknown) {
        Some(nearest) => format!("{message}; did you mean `{nearest}`?"),
        None => message.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_be_options_or_more_than_names_are_refused() {
        for host in ["pi.local", "10.0.0.7", "fe80::1%eth0", "my_alias"] {
            check_host(host).unwrap();
        }
        for host in [
            "-oProxyCommand=id",
            "",
            "a b",
            "a;b",
            "a\nb",
            "a'b",
            "$(id)",
        ] {
            assert!(check_host(host).is_err(), "{host:?}");
        }
        check_serial("192.168.1.7:5555").unwrap();
        check_serial("adb-8A_1-x._adb-tls-connect._tcp").unwrap();
        assert!(check_serial("-e").is_err() && check_serial("a b").is_err());
        assert!(check_user("-l").is_err() && check_device("../x").is_err());
        check_folder("/mnt/a b'; touch x").unwrap();
        assert!(check_folder("tmp").is_err() && check_folder("/a\nb").is_err());
    }

    #[test]
    fn the_nearest_name_is_suggested() {
        let message = "unknown field `thraeds`, expected one of `name`, `threads`, `affinity`";
        assert!(with_suggestion(message).ends_with("did you mean `threads`?"));
        assert_eq!(
            with_suggestion("missing field `name`"),
            "missing field `name`"
        );
    }
}
