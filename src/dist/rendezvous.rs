//! How processes meet at the start: they find the store, wait until all are there, make sure that all run the same, and
//! connect to each other.

use super::environment::ClusterEnvironment;
use super::heartbeat::{GroupInfo, Monitor};
use super::{RANKS, WORLD, World};
use crate::bail_hint;
use crate::differences::differences;
use crate::error::{Context as _, Result, bail, one_line};
use crate::ffi::{ProcessGroup, Store, StoreAddress};
use crate::run::progress::note_line;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::net::{IpAddr, SocketAddr, ToSocketAddrs, UdpSocket};
use std::path::Path;
use std::time::{Duration, Instant};
use tch::Device;

/// What must be the same in all processes, by name; or what went wrong before one could tell.
pub type RankFacts = std::result::Result<Map<String, Value>, String>;

/// What a process brings with it.
#[derive(Serialize, Deserialize)]
struct RankInfo {
    /// Tells this start from others that meet at the same port.
    nonce: u64,
    /// Written anew again and again, so that rank 0 can tell it from what an earlier start has left.
    times: u64,
    /// The machine, and the process there.
    place: String,
    /// An address of the machine.
    address: IpAddr,
    facts: RankFacts,
}

/// What rank 0 says once it has heard all.
#[derive(Serialize, Deserialize)]
struct RendezvousOutcome {
    nonces: Vec<u64>,
    /// Why they cannot begin together.
    problem: Option<String>,
    /// An address on the network that the machines share, where there are several.
    outside: Option<IpAddr>,
}

/// A store that is found, before anything is known of the others.
pub struct Rendezvous {
    launch: ClusterEnvironment,
    timeout: Duration,
    store: Store,
    /// An address of this machine that the others reach.
    address: IpAddr,
}

impl Rendezvous {
    /// Finds the store; rank 0 opens it, unless torchrun's agent has. `timeout` is how long processes wait for each
    /// other, now and later.
    pub fn find(launch: ClusterEnvironment, timeout: Duration) -> Result<Self> {
        let ClusterEnvironment { rank, world_size, local_rank, local_world_size, .. } = launch;
        let _ = RANKS.set([rank, world_size, local_rank, local_world_size]);
        raise_file_limit();
        let started = Instant::now();
        let at = resolve(&launch, timeout)?;
        let serve = launch.rank == 0 && !launch.agent_store;
        let address = StoreAddress {
            host: &launch.host,
            port: launch.port,
            serve,
            listen_fd: launch.listen_fd.filter(|_| serve),
        };
        let left = timeout.saturating_sub(started.elapsed()).max(Duration::from_secs(1));
        let (host, port) = (&launch.host, launch.port);
        let store = match Store::open(&address, left, timeout) {
            Ok(store) => store,
            Err(e) if serve => {
                let text = one_line(&e);
                let why = if text.contains("EADDRINUSE") || text.contains("in use") { "it is in use" } else { &text };
                bail_hint!(
                    "rank 0 cannot listen at port {port} for the others: {why}";
                    "another run may be using it: set MASTER_PORT to another one, the same for all processes"
                )
            }
            Err(_) => bail_hint!(
                "rank {rank}: nobody answered at {host}:{port} (MASTER_ADDR:MASTER_PORT) within {} s", timeout.as_secs();
                "is rank 0 running there, is the address right, and does no firewall stand between?"
            ),
        };
        let address = match local_address(at) {
            Ok(address) => address,
            Err(e) => return Err(e).with_context(|| format!("no way from this machine to {host}")),
        };
        Ok(Self { launch, timeout, store, address })
    }

    /// The run directory of an earlier start by the same torchrun, as rank 0 is told.
    pub fn earlier_run(&self) -> Result<Option<String>> {
        if !self.launch.agent_store || self.launch.rank > 0 {
            return Ok(None);
        }
        Ok(self.store.get_lasting("nepa/run")?.and_then(|path| String::from_utf8(path).ok()))
    }

    /// Waits until all are there, and checks that they agree on these facts. Where this process
    /// has an error of its own, tells whether it is one to show: not so where rank 0 shows one too.
    pub fn agree(&mut self, facts: RankFacts) -> Result<bool> {
        let nonce = {
            let time = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
            time.as_nanos() as u64 ^ u64::from(std::process::id()) << 40
        };
        let place = format!("{} (process {})", host_name(), std::process::id());
        let mut hello = RankInfo { nonce, times: 0, place, address: self.address, facts };
        let verdict = if self.launch.rank == 0 { self.judge(&hello)? } else { self.hear(&mut hello)? };
        if let (true, Some(outside)) = (self.address.is_loopback(), verdict.outside) {
            // Here MASTER_ADDR is this machine's own name, which leads nowhere else (127.0.1.1).
            self.address = local_address(SocketAddr::new(outside, self.launch.port))?;
        }
        self.store.enter(&verdict.nonces.first().copied().unwrap_or_default().to_string())?;
        match verdict.problem {
            None => Ok(true),
            Some(problem) if hello.facts.is_err() => Ok(self.launch.rank == 0 || !problem.starts_with("rank 0 ")),
            Some(problem) => bail!("{problem}"),
        }
    }

    /// Rank 0: hears all, and says what comes of it.
    fn judge(&self, own: &RankInfo) -> Result<RendezvousOutcome> {
        let started = Instant::now();
        let size = self.launch.world_size;
        let read = |rank: usize| -> Result<Option<RankInfo>> {
            let text = self.store.get(&format!("hello/{rank}"))?;
            Ok(text.and_then(|text| serde_json::from_slice(&text).ok()))
        };
        let mark = |hello: &Option<RankInfo>| hello.as_ref().map(|hello| (hello.nonce, hello.times));
        // A store of torchrun's may hold what an earlier start has left.
        let left = (0..size).map(|rank| Ok(mark(&read(rank)?))).collect::<Result<Vec<_>>>()?;
        let mut hellos: Vec<Option<RankInfo>> = (0..size).map(|_| None).collect();
        hellos[0] = Some(RankInfo { place: own.place.clone(), facts: own.facts.clone(), ..*own });
        let mut told = Duration::from_secs(3);
        while hellos.iter().any(Option::is_none) && started.elapsed() < self.timeout {
            for (rank, hello) in hellos.iter_mut().enumerate().filter(|(_, hello)| hello.is_none()) {
                *hello = read(rank)?.filter(|new| left[rank] != Some((new.nonce, new.times)));
            }
            let missing = ranks(&hellos, Option::is_none);
            if !missing.is_empty() && started.elapsed() > told {
                note_line(&format!("waiting for {} of {size} processes: {}", missing.len(), list(&missing)));
                told *= 3;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let missing = ranks(&hellos, Option::is_none);
        let nonces = hellos.iter().flatten().map(|h| h.nonce).collect();
        let outside = hellos.iter().flatten().map(|h| h.address).find(|address| !address.is_loopback());
        let problem = match missing.is_empty() {
            true => problem(&hellos.into_iter().flatten().collect::<Vec<_>>()),
            false => Some(format!(
                "only {} of {size} processes came within {} s; missing: {}",
                size - missing.len(),
                self.timeout.as_secs(),
                list(&missing)
            )),
        };
        let verdict = RendezvousOutcome { nonces, problem, outside };
        self.store.set("verdict", &serde_json::to_vec(&verdict).expect("plain data"))?;
        if verdict.problem.is_some() && !self.launch.agent_store {
            // The store goes with this process.
            std::thread::sleep(Duration::from_millis(1000));
        }
        Ok(verdict)
    }

    fn hear(&self, hello: &mut RankInfo) -> Result<RendezvousOutcome> {
        let started = Instant::now();
        let at = format!("{}:{}", self.launch.host, self.launch.port);
        let mut seen_others = false;
        // Rank 0 may have begun to wait later than this one.
        while started.elapsed() < 2 * self.timeout {
            hello.times += 1;
            let own = serde_json::to_vec(hello).expect("plain data");
            let key = format!("hello/{}", self.launch.rank);
            let text = match self.store.set(&key, &own).and_then(|()| self.store.get("verdict")) {
                Ok(text) => text,
                Err(_) => bail!("rank 0, which kept the store at {at}, ended before all were there"),
            };
            if let Some(verdict) = text.and_then(|text| serde_json::from_slice::<RendezvousOutcome>(&text).ok()) {
                if verdict.nonces.contains(&hello.nonce) {
                    return Ok(verdict);
                }
                seen_others = true;
            }
            // Often at first: most starts are quick.
            std::thread::sleep((started.elapsed() / 10).clamp(Duration::from_millis(10), Duration::from_millis(500)));
        }
        if seen_others {
            bail_hint!(
                "the processes at {at} began without this one, perhaps those of another run";
                "set MASTER_PORT to another one, the same for all processes"
            );
        }
        bail!("rank 0 at {at} did not begin within {} s", 2 * self.timeout.as_secs())
    }

    /// Connects all processes to each other, and starts to watch over them.
    pub fn connect(self, device: Device) -> Result<()> {
        let ClusterEnvironment { rank, world_size, agent_store, .. } = self.launch;
        let info = GroupInfo { rank, size: world_size, timeout: self.timeout, agent_store };
        let address = self.address.to_string();
        let monitor = Monitor::start(self.store.connect_again()?, &info)?;
        let named = std::env::var("GLOO_SOCKET_IFNAME").ok();
        let interface = named.as_deref().and_then(|names| names.split(',').next()).filter(|n| !n.is_empty());
        let cuda = matches!(device, Device::Cuda(_));
        super::ON_GPU.store(cuda, std::sync::atomic::Ordering::Relaxed);
        monitor.enter("connecting");
        let group = ProcessGroup::open(&self.store, [rank, world_size], &address, interface, cuda, self.timeout);
        monitor.leave();
        let group = match group {
            Ok(group) => group,
            Err(e) => {
                let failure = monitor.explain("connecting", &one_line(&e), None);
                if rank == 0 && !agent_store {
                    super::heartbeat::wait_for_readers(&self.store, world_size);
                }
                return Err(super::failed(&failure));
            }
        };
        let world = World { store: self.store, group, monitor, info, announced: Default::default() };
        // To the end of the process: see ProcessGroup.
        WORLD.set(Some(Box::leak(Box::new(world))));
        Ok(())
    }
}

/// Tells a later start by torchrun where the run is.
pub fn remember_run(path: &Path) -> Result<()> {
    match super::world() {
        Some(world) if super::is_rank0() && world.info.agent_store => {
            world.store.set_lasting("nepa/run", path.display().to_string().as_bytes())
        }
        _ => Ok(()),
    }
}

/// Tells torchrun why this process fails, for its own report.
pub(super) fn tell_agent(message: &str) {
    let Some(file) = std::env::var_os("TORCHELASTIC_ERROR_FILE") else { return };
    let seconds = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_secs();
    let extra = json!({ "py_callstack": message, "timestamp": seconds.to_string() });
    let report = json!({ "message": { "message": message, "extraInfo": extra } });
    // A report is a help only.
    let _ = std::fs::write(file, report.to_string());
}

fn ranks(hellos: &[Option<RankInfo>], which: impl Fn(&Option<RankInfo>) -> bool) -> Vec<usize> {
    (0..hellos.len()).filter(|rank| which(&hellos[*rank])).collect()
}

fn list(ranks: &[usize]) -> String {
    let first: Vec<String> = ranks.iter().take(8).map(|rank| format!("rank {rank}")).collect();
    let more = if ranks.len() > 8 { format!(" and {} more", ranks.len() - 8) } else { String::new() };
    format!("{}{more}", first.join(", "))
}

/// Why processes that say this cannot begin together.
fn problem(hellos: &[RankInfo]) -> Option<String> {
    for (rank, hello) in hellos.iter().enumerate() {
        if let Err(error) = &hello.facts {
            return Some(format!("rank {rank} on {} cannot begin: {error}", hello.place));
        }
    }
    let facts = |hello: &RankInfo| Value::Object(hello.facts.clone().unwrap_or_default());
    let first = facts(&hellos[0]);
    let differing = hellos.iter().enumerate().skip(1).filter_map(|(rank, hello)| {
        let found = contradictions(&first, &facts(hello));
        (!found.is_empty()).then(|| format!("rank {rank} on {}: {}", hello.place, found.join("; ")))
    });
    let differing: Vec<String> = differing.take(4).collect();
    match differing.is_empty() {
        true => None,
        false => Some(format!("not all processes run the same as rank 0:\n  {}", differing.join("\n  "))),
    }
}

/// "batch: 128 in rank 0, 64 here" for all that differs.
pub(super) fn contradictions(first: &Value, other: &Value) -> Vec<String> {
    let word = |v: &Value| match v {
        Value::Null => "nothing".to_string(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let line = |(name, a, b): (String, Value, Value)| format!("{name}: {} in rank 0, {} here", word(&a), word(&b));
    differences(first, other).into_iter().map(line).collect()
}

/// Connections count as open files; of these the system allows few unless it is asked for as many as may be.
fn raise_file_limit() {
    // SAFETY: plain system calls on a struct of our own.
    unsafe {
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        if libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) == 0 {
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &limit);
        }
    }
}

/// Where the store is. A name that is not known yet may be so in a moment, as when a cluster starts.
fn resolve(launch: &ClusterEnvironment, timeout: Duration) -> Result<SocketAddr> {
    let started = Instant::now();
    loop {
        match (launch.host.as_str(), launch.port).to_socket_addrs().map(|mut all| all.next()) {
            Ok(Some(at)) => return Ok(at),
            _ if started.elapsed() < timeout => std::thread::sleep(Duration::from_millis(500)),
            _ => bail_hint!(
                "MASTER_ADDR is \"{}\", which is no address and the name of no machine known here ({} s were waited)",
                launch.host, timeout.as_secs();
                "give the name or the address of rank 0's machine"
            ),
        }
    }
}

/// The address of this machine from which `at` is reached. Nothing is sent.
fn local_address(at: SocketAddr) -> std::io::Result<IpAddr> {
    let any: SocketAddr = if at.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0u16; 8], 0).into() };
    let socket = UdpSocket::bind(any)?;
    socket.connect(at)?;
    Ok(socket.local_addr()?.ip())
}

/// The name of this machine.
pub(super) fn host_name() -> String {
    let text = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let text = if text.is_empty() { std::env::var("HOSTNAME").unwrap_or_default() } else { text };
    text.trim().to_string()
}

/// What must be the same in all processes besides what the command line says.
pub fn program_facts() -> Map<String, Value> {
    let mut program = Map::new();
    let found = std::env::current_exe().ok().and_then(|path| {
        let file = std::fs::File::open(path).ok()?;
        // SAFETY: a program that runs is not written to.
        let bytes = unsafe { memmap2::Mmap::map(&file) }.ok()?;
        Some(json!(format!("{} ({:08x})", env!("CARGO_PKG_VERSION"), crc32fast::hash(&bytes))))
    });
    program.insert("nepa".into(), found.unwrap_or(json!(env!("CARGO_PKG_VERSION"))));
    program
}
