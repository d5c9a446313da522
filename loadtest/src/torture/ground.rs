//! What is tortured: gateways with disks of their own and an origin, in network namespaces.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail};
use rustix::process::Signal;
use rustls::ClientConfig;
use tokio::sync::Mutex;

use super::disk::Disk;
use super::schedule::{GUEST, MEMBERS, SECURE};
use super::truth::FRESH_FOR;
use super::{BUCKET, DATASET, Options};
use crate::certificate::Authority;
use crate::gateway::{self, Metrics};
use crate::origin::{self, Origin};
use crate::scenario::member::Member;
use crate::scenario::net::{Layout, Net, address, client_address, fleet_address};

/// The origin model's port.
pub(super) const ORIGIN_PORT: u16 = 9000;

/// What readers sign with where they have to.
pub(super) const KEY_ID: &str = "LOADER";
pub(super) const SECRET: &str = "loader-secret";

/// `memory` of a gateway: less than the objects, so that disks are read.
const MEMORY: &str = "80MiB";

/// The hosts that readers are on.
pub(super) const READERS: usize = 2;

/// Where a gateway serves.
#[derive(Clone, Debug)]
pub(super) struct Door {
    pub(super) address: SocketAddr,
    /// It speaks TLS, and wants signatures.
    pub(super) tls: Option<Arc<ClientConfig>>,
}

/// All of it, running. Dropping it ends and removes everything.
#[derive(Debug)]
pub(super) struct Ground {
    /// `None` while one is away. Whoever changes what a host is holds its lock.
    hosts: Vec<Mutex<Option<Member>>>,
    pub(super) origin: Origin,
    pub(super) disks: Vec<Disk>,
    authority: Authority,
    tls: Arc<ClientConfig>,
    program: PathBuf,
    pub(super) net: Net,
}

impl Ground {
    /// Makes the network, disks, and origin, and starts the members.
    ///
    /// # Errors
    /// Something of it is not to be had here, or a gateway does not start.
    pub(super) async fn new(options: &Options) -> anyhow::Result<Self> {
        let program = gateway::program(options.program.as_deref())?;
        let layout = Layout {
            cards: true,
            ..Layout::new(MEMBERS + 1, READERS)
        };
        let net = Net::build(&layout).await?;
        let address = SocketAddr::new(address::origin().into(), ORIGIN_PORT);
        let listener = net.origin().listen(address).await;
        let listener = listener.with_context(|| format!("listen on {address}"))?;
        let settings = origin::Settings {
            listen: address,
            bucket: BUCKET.to_owned(),
            seed: options.seed,
            ..origin::Settings::default()
        };
        let origin = Origin::on(listener, settings).context("start the origin model")?;
        let authority = Authority::new("torture")?;
        let mut ground = Self {
            hosts: (0..=GUEST).map(|_| Mutex::default()).collect(),
            tls: Arc::new(authority.client(None)?),
            disks: Vec::new(),
            authority,
            origin,
            program,
            net,
        };
        // Sixty-four hexadecimal digits; it guards nothing but a network that nobody else sees.
        let secret = format!("{:016x}", options.seed).repeat(4);
        let key = ground.net.directory().join("fleet.key");
        fs::write(&key, secret).with_context(|| format!("write {}", key.display()))?;
        for host in 0..=GUEST {
            let system = if host % 2 == 0 { "ext4" } else { "xfs" };
            let disk = Disk::new(&ground.directory(host), system).await?;
            ground.disks.push(disk);
        }
        ground.certify()?;
        for host in 0..MEMBERS {
            ground.start(host, MEMORY).await?;
        }
        Ok(ground)
    }

    /// The doors of all hosts, the guest's included.
    pub(super) fn doors(&self) -> Arc<[Door]> {
        let door = |host| Door {
            address: client_address(host),
            tls: (host == SECURE).then(|| Arc::clone(&self.tls)),
        };
        (0..=GUEST).map(door).collect()
    }

    /// Starts a host's gateway over what its disk holds, with the usual memory.
    ///
    /// # Errors
    /// It does not become ready.
    pub(super) async fn begin(&self, host: usize) -> anyhow::Result<()> {
        self.start(host, MEMORY).await
    }

    /// The same with so much memory.
    ///
    /// # Errors
    /// It does not become ready.
    pub(super) async fn start(&self, host: usize, memory: &str) -> anyhow::Result<()> {
        let settings = self.settings(host, memory, "");
        let (namespace, directory) = (self.net.gateway(host), self.directory(host));
        let member = Member::start(&self.program, namespace, directory, &settings).await;
        let mut member = member?;
        member.ready().await?;
        *self.hosts[host].lock().await = Some(member);
        Ok(())
    }

    /// Ends a host's gateway as a crash would.
    ///
    /// # Errors
    /// Its end can't be waited for.
    pub(super) async fn kill(&self, host: usize) -> anyhow::Result<()> {
        match self.hosts[host].lock().await.take() {
            Some(mut member) => member.kill().await,
            None => Ok(()),
        }
    }

    /// Stops a host's gateway by SIGTERM.
    ///
    /// # Errors
    /// It does not end, or ends with an error.
    pub(super) async fn stop(&self, host: usize) -> anyhow::Result<()> {
        match self.hosts[host].lock().await.take() {
            Some(member) => member.stop().await,
            None => Ok(()),
        }
    }

    /// Sends a signal to a host's gateway.
    ///
    /// # Errors
    /// It has ended by itself.
    pub(super) async fn signal(&self, host: usize, signal: Signal) -> anyhow::Result<()> {
        match &*self.hosts[host].lock().await {
            Some(member) => member.signal(signal),
            None => bail!("gw-{host} is away"),
        }
    }

    /// POSTs to a route of a host's gateway, from itself; the status.
    ///
    /// # Errors
    /// No whole answer came in time.
    pub(super) async fn post(&self, host: usize, path: &str) -> anyhow::Result<u16> {
        match &*self.hosts[host].lock().await {
            Some(member) => Ok(member.ask(http::Method::POST, path).await?.0.as_u16()),
            None => bail!("gw-{host} is away"),
        }
    }

    /// The metrics of a host's gateway; `None` if it is away, or wants TLS.
    pub(super) async fn metrics(&self, host: usize) -> Option<Metrics> {
        // Whoever ends or starts it has the lock, and is not to wait.
        let member = self.hosts[host].try_lock().ok()?;
        let open = host != SECURE;
        member.as_ref().filter(|_| open)?.metrics().await.ok()
    }

    /// Changes the settings file of a host, with these lines at its end.
    ///
    /// # Errors
    /// It can't be written.
    pub(super) fn rewrite(&self, host: usize, more: &str) -> anyhow::Result<()> {
        let file = self.directory(host).join("forebay.toml");
        fs::write(file, self.settings(host, MEMORY, more)).context("write settings file")
    }

    /// Gives the secure member a new certificate of the same authority.
    ///
    /// # Errors
    /// None can be made or written.
    pub(super) fn certify(&self) -> anyhow::Result<()> {
        let address = address::gateway(SECURE).into();
        let pair = self.authority.sign_for("torture", address)?;
        let directory = self.directory(SECURE);
        for (name, text) in [("tls.key", &pair.key), ("tls.crt", &pair.cert)] {
            fs::write(directory.join(name), text).with_context(|| format!("write {name}"))?;
        }
        Ok(())
    }

    /// The authority's certificate in a file, for clients that read one.
    ///
    /// # Errors
    /// It can't be written.
    pub(super) fn authority_file(&self) -> anyhow::Result<PathBuf> {
        let file = self.net.directory().join("authority.pem");
        fs::write(&file, self.authority.pem()).context("write the authority's certificate")?;
        Ok(file)
    }

    /// Where a host's files are; its disk is mounted in it.
    pub(super) fn directory(&self, host: usize) -> PathBuf {
        self.net.directory().join(format!("gw{host}"))
    }

    /// Copies what the gateways logged to `to`.
    ///
    /// # Errors
    /// A file can't be written.
    pub(super) fn keep_logs(&self, to: &Path) -> anyhow::Result<()> {
        for host in 0..=GUEST {
            let from = self.directory(host).join("stderr");
            if from.exists() {
                fs::copy(from, to.join(format!("gw-{host}.log"))).context("keep a log")?;
            }
        }
        Ok(())
    }

    fn settings(&self, host: usize, memory: &str, more: &str) -> String {
        let disk = &self.disks[host];
        let seeds: Vec<_> = (0..MEMBERS)
            .filter(|&seed| seed != host)
            .map(|seed| format!("\"{}\"", fleet_address(seed)))
            .collect();
        let secure = host == SECURE;
        let (scheme, door) = if secure {
            let directory = self.directory(host);
            let access = format!(
                "[[access]]\naccess_key_id = \"{KEY_ID}\"\nsecret_access_key = \"{SECRET}\"\n\
                 [tls]\ncert = \"{0}/tls.crt\"\nkey = \"{0}/tls.key\"\n",
                directory.display()
            );
            ("https", access)
        } else {
            ("http", String::new())
        };
        let open = if secure { "" } else { "open = true\n" };
        format!(
            "listen = \"0.0.0.0:7070\"\n{open}data_dir = \"{}\"\nstop_after = \"1s\"\n\
             [cache]\nmemory = \"{memory}\"\nnvme = \"512MiB\"\nnvme_dir = \"{}\"\n\
             [log]\nlevel = \"info\"\naccess = false\n\
             [[datasets]]\nname = \"{DATASET}\"\norigin = \"s3://{BUCKET}\"\nfresh_for = \"{}ms\"\n\
             options = {{ aws_endpoint = \"{}\", aws_region = \"us-east-1\", \
             aws_access_key_id = \"AK\", aws_secret_access_key = \"SK\" }}\n\
             [fleet]\nname = \"torture\"\nmember = \"gw-{host}\"\nkey = {{ file = \"{}\" }}\n\
             listen = \"{}\"\nclient_url = \"{scheme}://{}\"\ndrain_after = \"3s\"\nseeds = [{}]\n{door}{more}",
            disk.path().join("data").display(),
            disk.blocks().display(),
            FRESH_FOR.as_millis(),
            self.origin.endpoint(),
            self.net.directory().join("fleet.key").display(),
            fleet_address(host),
            client_address(host),
            seeds.join(", "),
        )
    }

    /// Stops all, and the network goes too.
    ///
    /// # Errors
    /// A gateway does not stop, or ends with an error.
    pub(super) async fn end(self) -> anyhow::Result<()> {
        let mut first = Ok(());
        for host in 0..=GUEST {
            let ended = self.stop(host).await;
            if first.is_ok() {
                first = ended;
            }
        }
        first
    }
}
