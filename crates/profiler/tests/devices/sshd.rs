//! A real sshd with throwaway keys.

use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use super::network::{Network, call, missing};
use super::short::wait_for;

const PORT: u16 = 2222;

pub struct Sshd {
    pub network: Network,
    /// Keys, configurations, and the folder for Lathe's.
    pub home: TempDir,
    server: Child,
    options: String,
    is_mounted: bool,
}

impl Sshd {
    /// `None` where there can be none.
    pub fn new() -> Option<Self> {
        Self::with("", None)
    }

    /// With further lines of sshd_config, and a file system of its own for the device's folder.
    pub fn with(options: &str, mount: Option<&str>) -> Option<Self> {
        // sshd does not lie in everyone's PATH.
        if missing(&["ssh", "ssh-keygen", "/usr/sbin/sshd", "ip"]).is_some() {
            return None;
        }
        let network = Network::new();
        let home = tempfile::tempdir().unwrap();
        // Where sshd goes before anybody has logged in.
        fs::create_dir_all("/run/sshd").unwrap();
        for key in ["host_key", "user_key"] {
            new_key(home.path(), key);
        }
        fs::copy(
            home.path().join("user_key.pub"),
            home.path().join("authorized"),
        )
        .unwrap();
        let device = home.path().join("device");
        fs::create_dir(&device).unwrap();
        // Before the server is there, which sees no later ones.
        if let Some(options) = mount {
            let device = device.to_str().unwrap();
            assert!(call(
                "mount",
                &["-t", "tmpfs", "-o", options, "tmpfs", device]
            ));
        }
        let server = serve(&network, home.path(), options);
        let sshd = Self {
            network,
            home,
            server,
            options: options.to_owned(),
            is_mounted: mount.is_some(),
        };
        sshd.trust("host_key");
        let client = format!(
            "Host box\n HostName {}\n Port {PORT}\n User root\n IdentityFile {home}/user_key\n IdentitiesOnly yes\n UserKnownHostsFile {home}/known_hosts\n GlobalKnownHostsFile none\n",
            sshd.network.there(),
            home = sshd.home.path().display()
        );
        fs::write(sshd.home.path().join("config"), client).unwrap();
        Some(sshd)
    }

    /// The folder in which Lathe makes its private one.
    pub fn device(&self) -> PathBuf {
        self.home.path().join("device")
    }

    /// The device's YAML.
    pub fn yaml(&self) -> String {
        self.yaml_in(&self.device())
    }

    pub fn yaml_in(&self, folder: &Path) -> String {
        format!(
            "name: box\nthreads: 1\njob_timeout_s: 10\nreconnect_s: 20\ntransport:\n  ssh:\n    host: box\n    config: {:?}\n    folder: {folder:?}\n",
            self.home.path().join("config")
        )
    }

    /// Writes a host key into the client's known hosts.
    pub fn trust(&self, key: &str) {
        let key = fs::read_to_string(self.home.path().join(format!("{key}.pub"))).unwrap();
        let line = format!("[{}]:{PORT} {key}", self.network.there());
        fs::write(self.home.path().join("known_hosts"), line).unwrap();
    }

    /// Ends the servers of all connections, not the one that listens.
    pub fn drop_connections(&self) {
        let listens = self.server.id().to_string();
        for (process, name) in self.network.processes() {
            if name.starts_with("sshd") && process != listens {
                call("kill", &["-KILL", &process]);
            }
        }
    }

    /// Ends the server and all its connections, and starts it again.
    pub fn reboot(&mut self) {
        self.network.kill_all();
        self.server.wait().unwrap();
        self.server = serve(&self.network, self.home.path(), &self.options);
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        self.network.kill_all();
        let _ended = self.server.wait();
        if self.is_mounted {
            call("umount", &["-l", self.device().to_str().unwrap()]);
        }
    }
}

pub fn new_key(home: &Path, name: &str) {
    let mut keygen = Command::new("ssh-keygen");
    keygen
        .args(["-q", "-t", "ed25519", "-N", "", "-f"])
        .arg(home.join(name));
    assert!(keygen.status().unwrap().success());
}

fn serve(network: &Network, home: &Path, options: &str) -> Child {
    let at = home.display();
    let config = format!(
        "ListenAddress {}:{PORT}\nHostKey {at}/host_key\nAuthorizedKeysFile {at}/authorized\nPidFile none\nUsePAM no\nStrictModes no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin prohibit-password\n{options}\n",
        network.there()
    );
    fs::write(home.join("sshd_config"), config).unwrap();
    let mut server = network.command("/usr/sbin/sshd");
    let server = server
        .args(["-D", "-e", "-f"])
        .arg(home.join("sshd_config"))
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let address = format!("{}:{PORT}", network.there());
    wait_for(|| TcpStream::connect(&address).is_ok());
    server
}
