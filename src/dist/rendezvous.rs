//! The rendezvous: how processes find each other at the start. They find the store, wait until all have joined, check
//! that all run the same program, and connect to each other.

use super::heartbeat::{Monitor, wait_until_failure_is_read};
use super::{ClusterEnvironment, ENVIRONMENT, GroupInfo, Hooks, WORLD, World, failed};
use crate::bail_hint;
use crate::differences::differences;
use crate::error::{Context as _, Result, bail, one_line};
use crate::ffi::{ProcessGroup, Store, StoreAddress};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, ToSocketAddrs, UdpSocket};
use std::os::fd::FromRawFd as _;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tch::Device;

/// What must be the same on all ranks, by name; or the error that kept a rank from finding out.
pub type RankFacts = std::result::Result<Map<String, Value>, String>;

/// What a rank tells rank 0 when it joins.
#[derive(Clone, Serialize, Deserialize)]
struct RankInfo {
    /// Tells this start from others that use the same port.
    nonce: u64,
    /// Counts how often it was written, so that rank 0 can tell it from what an earlier start has left.
    written: u64,
    /// The machine's name and the process id.
    process: String,
    /// An address of the machine.
    address: IpAddr,
    facts: RankFacts,
}

/// What rank 0 answers once it has heard all.
#[derive(Serialize, Deserialize)]
struct RendezvousOutcome {
    nonces: Vec<u64>,
    /// Why they cannot start together.
    problem: Option<Problem>,
    /// An address on the network between the machines, if there are several.
    outside: Option<IpAddr>,
}

#[derive(Serialize, Deserialize)]
struct Problem {
    /// The rank that reported it, if it is one rank's own error.
    rank: Option<usize>,
    message: String,
}

/// The store is found; nothing is known of the other processes yet.
pub struct Rendezvous {
    environment: ClusterEnvironment,
    timeout: Duration,
    hooks: Hooks,
    store: Store,
    /// An address of this machine that the others can reach.
    address: IpAddr,
}

impl Rendezvous {
    /// Finds the store; rank 0 opens it, unless torchrun's agent has. `timeout` is how long processes wait for each
    /// other, now and later.
    pub fn open(environment: ClusterEnvironment, timeout: Duration, hooks: Hooks) -> Result<Self> {
        let _ = ENVIRONMENT.set(environment.clone());
        raise_file_limit();
        let started = Instant::now();
        let ClusterEnvironment { rank, host, port, agent_store, listen_fd, .. } = &environment;
        let resolved = resolve(host, *port, timeout)?;
        let listener = if *rank == 0 && !agent_store { Some(listen(*port, *listen_fd)?) } else { None };
        let left = timeout.saturating_sub(started.elapsed()).max(Duration::from_secs(1));
        let store = match Store::open(StoreAddress { host, port: *port, listener }, left, timeout) {
            Ok(store) => store,
            Err(_) => bail_hint!(
                "rank {rank}: no answer from {host}:{port} (MASTER_ADDR:MASTER_PORT) within {} s",
                timeout.as_secs();
                "check that rank 0 runs there, that the address is right, and that no firewall blocks the port"
            ),
        };
        let address = local_address(resolved).with_context(|| format!("cannot reach {host} from this machine"))?;
        Ok(Self { environment, timeout, hooks, store, address })
    }

    /// On rank 0, the value that [`super::remember`] stored under `key` before torchrun restarted the processes.
    pub fn remembered(&self, key: &str) -> Result<Option<String>> {
        if !self.environment.agent_store || self.environment.rank > 0 {
            return Ok(None);
        }
        Ok(self.store.get_lasting(key)?.and_then(|value| String::from_utf8(value).ok()))
    }

    /// Waits until all processes have joined, and checks that their facts are the same. If this process's facts are an
    /// error, returns whether to print it: not if rank 0 prints its own.
    pub fn compare(&mut self, facts: RankFacts) -> Result<bool> {
        let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let nonce = time.as_nanos() as u64 ^ u64::from(std::process::id()) << 40;
        let process = format!("{} (process {})", host_name(), std::process::id());
        let mut own = RankInfo { nonce, written: 0, process, address: self.address, facts };
        let outcome = if self.environment.rank == 0 { self.collect(&own)? } else { self.join(&mut own)? };
        if let (true, Some(outside)) = (self.address.is_loopback(), outcome.outside) {
            // Here MASTER_ADDR is this machine's own name, which other machines cannot reach (127.0.1.1).
            self.address = local_address(SocketAddr::new(outside, self.environment.port))?;
        }
        self.store.use_prefix(&outcome.nonces.first().copied().unwrap_or_default().to_string())?;
        match outcome.problem {
            None => Ok(true),
            Some(problem) if own.facts.is_err() => Ok(self.environment.rank == 0 || problem.rank != Some(0)),
            Some(problem) => bail!("{}", problem.message),
        }
    }

    /// Rank 0: waits for all ranks' information, and answers it.
    fn collect(&self, own: &RankInfo) -> Result<RendezvousOutcome> {
        let started = Instant::now();
        let size = self.environment.world_size;
        let read = |rank: usize| -> Result<Option<RankInfo>> {
            let text = self.store.get(&format!("rank/{rank}"))?;
            Ok(text.and_then(|text| serde_json::from_slice(&text).ok()))
        };
        let version = |info: &Option<RankInfo>| info.as_ref().map(|info| (info.nonce, info.written));
        // torchrun's store may hold what an earlier start has left.
        let leftovers = (0..size).map(|rank| Ok(version(&read(rank)?))).collect::<Result<Vec<_>>>()?;
        let mut infos: Vec<Option<RankInfo>> = vec![None; size];
        infos[0] = Some(own.clone());
        let mut next_note = Duration::from_secs(3);
        while infos.iter().any(Option::is_none) && started.elapsed() < self.timeout {
            for (rank, info) in infos.iter_mut().enumerate().filter(|(_, info)| info.is_none()) {
                *info = read(rank)?.filter(|new| leftovers[rank] != Some((new.nonce, new.written)));
            }
            let missing = missing_ranks(&infos);
            if !missing.is_empty() && started.elapsed() > next_note {
                (self.hooks.note)(&format!("waiting for {} of {size} ranks: {}", missing.len(), list(&missing)));
                next_note *= 3;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let missing = missing_ranks(&infos);
        let infos: Vec<RankInfo> = infos.into_iter().flatten().collect();
        let problem = match missing.is_empty() {
            true => problem(&infos),
            false => {
                let (joined, seconds) = (size - missing.len(), self.timeout.as_secs());
                let message =
                    format!("only {joined} of {size} ranks joined within {seconds} s; missing: {}", list(&missing));
                Some(Problem { rank: None, message })
            }
        };
        let nonces = infos.iter().map(|info| info.nonce).collect();
        let outside = infos.iter().map(|info| info.address).find(|address| !address.is_loopback());
        let outcome = RendezvousOutcome { nonces, problem, outside };
        self.store.set("outcome", &serde_json::to_vec(&outcome).expect("plain data"))?;
        if outcome.problem.is_some() && !self.environment.agent_store {
            // The store ends with this process.
            std::thread::sleep(Duration::from_millis(1000));
        }
        Ok(outcome)
    }

    /// Other ranks: tell rank 0 about themselves, and wait for its answer.
    fn join(&self, own: &mut RankInfo) -> Result<RendezvousOutcome> {
        let started = Instant::now();
        let ClusterEnvironment { rank, host, port, .. } = &self.environment;
        let mut others_started = false;
        // Rank 0 may have begun to wait later than this one.
        while started.elapsed() < 2 * self.timeout {
            own.written += 1;
            let text = serde_json::to_vec(own).expect("plain data");
            let answer = match self.store.set(&format!("rank/{rank}"), &text).and_then(|()| self.store.get("outcome")) {
                Ok(answer) => answer,
                Err(_) => bail!("rank 0, which kept the store at {host}:{port}, ended before all ranks had joined"),
            };
            if let Some(outcome) = answer.and_then(|text| serde_json::from_slice::<RendezvousOutcome>(&text).ok()) {
                if outcome.nonces.contains(&own.nonce) {
                    return Ok(outcome);
                }
                others_started = true;
            }
            // Often at first: most starts are quick.
            std::thread::sleep((started.elapsed() / 10).clamp(Duration::from_millis(10), Duration::from_millis(500)));
        }
        if others_started {
            bail_hint!(
                "the ranks at {host}:{port} started without this one; they may belong to another run";
                "set MASTER_PORT to another port, the same on all ranks"
            );
        }
        bail!("rank 0 at {host}:{port} did not start within {} s", 2 * self.timeout.as_secs())
    }

    /// Connects all processes to each other, and starts their heartbeats.
    pub fn connect(self, device: Device) -> Result<()> {
        let ClusterEnvironment { rank, world_size, agent_store, .. } = self.environment;
        let on_gpu = matches!(device, Device::Cuda(_));
        let (timeout, hooks) = (self.timeout, self.hooks);
        let info = GroupInfo { rank, size: world_size, timeout, agent_store, on_gpu, hooks };
        let monitor = Monitor::start(self.store.connect_again()?, &info)?;
        let address = self.address.to_string();
        let interfaces = std::env::var("GLOO_SOCKET_IFNAME").ok();
        let interface = interfaces.as_deref().and_then(|names| names.split(',').next()).filter(|n| !n.is_empty());
        monitor.enter_collective("connecting");
        let group = ProcessGroup::open(&self.store, [rank, world_size], &address, interface, on_gpu, timeout);
        monitor.leave();
        let group = match group {
            Ok(group) => group,
            Err(e) => {
                let failure = monitor.explain("connecting", &one_line(&e), None);
                if rank == 0 && !agent_store {
                    wait_until_failure_is_read(&self.store, world_size);
                }
                return Err(failed(&failure));
            }
        };
        let world = World { store: self.store, group, monitor, info, waits: Default::default() };
        // To the end of the process: see ProcessGroup.
        WORLD.set(Some(Box::leak(Box::new(world))));
        Ok(())
    }
}

/// Tells torchrun why this process fails, for torchrun's report.
pub(super) fn tell_torchrun(message: &str) {
    let Some(file) = std::env::var_os("TORCHELASTIC_ERROR_FILE") else { return };
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let extra = json!({ "py_callstack": message, "timestamp": seconds.to_string() });
    let report = json!({ "message": { "message": message, "extraInfo": extra } });
    // The report is optional.
    let _ = std::fs::write(file, report.to_string());
}

fn missing_ranks(infos: &[Option<RankInfo>]) -> Vec<usize> {
    (0..infos.len()).filter(|rank| infos[*rank].is_none()).collect()
}

fn list(ranks: &[usize]) -> String {
    let first: Vec<String> = ranks.iter().take(8).map(|rank| format!("rank {rank}")).collect();
    let more = if ranks.len() > 8 { format!(" and {} more", ranks.len() - 8) } else { String::new() };
    format!("{}{more}", first.join(", "))
}

/// Why these ranks cannot start together.
fn problem(infos: &[RankInfo]) -> Option<Problem> {
    for (rank, info) in infos.iter().enumerate() {
        if let Err(error) = &info.facts {
            let message = format!("rank {rank} on {} cannot start: {error}", info.process);
            return Some(Problem { rank: Some(rank), message });
        }
    }
    let facts = |info: &RankInfo| Value::Object(info.facts.clone().unwrap_or_default());
    let first = facts(&infos[0]);
    let differing = infos.iter().enumerate().skip(1).filter_map(|(rank, info)| {
        let found = differing_facts(&first, &facts(info));
        (!found.is_empty()).then(|| format!("rank {rank} on {}: {}", info.process, found.join("; ")))
    });
    let differing: Vec<String> = differing.take(4).collect();
    let message = format!("some ranks differ from rank 0:\n  {}", differing.join("\n  "));
    (!differing.is_empty()).then_some(Problem { rank: None, message })
}

/// "batch: 128 on rank 0, 64 here" for each fact that differs.
pub(super) fn differing_facts(rank0: &Value, here: &Value) -> Vec<String> {
    let word = |v: &Value| match v {
        Value::Null => "nothing".to_string(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let line = |(name, a, b): (String, Value, Value)| format!("{name}: {} on rank 0, {} here", word(&a), word(&b));
    differences(rank0, here).into_iter().map(line).collect()
}

/// Connections count as open files, and the default limit is low: raises it as far as the system allows.
fn raise_file_limit() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    // If this fails, the limit stays as it was.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
}

/// The store's address. A name may not be known yet while a cluster starts, so this retries.
fn resolve(host: &str, port: u16, timeout: Duration) -> Result<SocketAddr> {
    let started = Instant::now();
    loop {
        match (host, port).to_socket_addrs().map(|mut all| all.next()) {
            Ok(Some(address)) => return Ok(address),
            _ if started.elapsed() < timeout => std::thread::sleep(Duration::from_millis(500)),
            _ => bail_hint!(
                "cannot resolve MASTER_ADDR \"{host}\" (tried for {} s)", timeout.as_secs();
                "give the name or the address of rank 0's machine"
            ),
        }
    }
}

/// Rank 0's socket for the store, on all interfaces, or the one that the launcher left open as `listen_fd`.
fn listen(port: u16, listen_fd: Option<i32>) -> Result<TcpListener> {
    if let Some(fd) = listen_fd {
        // SAFETY: `nepa run --nproc` leaves this socket open for rank 0, which takes it once, here.
        return Ok(unsafe { TcpListener::from_raw_fd(fd) });
    }
    let listener = match listen_dual_stack(port) {
        Err(e) if e.kind() != ErrorKind::AddrInUse => TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)),
        bound => bound,
    };
    match listener {
        Ok(listener) => Ok(listener),
        Err(e) => {
            let why = if e.kind() == ErrorKind::AddrInUse { "it is in use".to_string() } else { e.to_string() };
            bail_hint!(
                "rank 0 cannot listen on port {port} for the other ranks: {why}";
                "another run may be using it: set MASTER_PORT to another port, the same on all ranks"
            )
        }
    }
}

/// A socket for IPv6 that listens for IPv4 too, whatever the system's default.
fn listen_dual_stack(port: u16) -> std::io::Result<TcpListener> {
    use rustix::net::{AddressFamily, SocketType, bind, listen, socket, sockopt};
    let fd = socket(AddressFamily::INET6, SocketType::STREAM, None)?;
    // As std does: not handed to other programs; the port of a run that has just ended is free.
    rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::CLOEXEC)?;
    sockopt::set_socket_reuseaddr(&fd, true)?;
    sockopt::set_ipv6_v6only(&fd, false)?;
    bind(&fd, &SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)))?;
    listen(&fd, 128)?;
    Ok(fd.into())
}

/// The address from which this machine reaches `target`. Nothing is sent.
fn local_address(target: SocketAddr) -> std::io::Result<IpAddr> {
    let any: SocketAddr = if target.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0u16; 8], 0).into() };
    let socket = UdpSocket::bind(any)?;
    socket.connect(target)?;
    Ok(socket.local_addr()?.ip())
}

/// The name of this machine.
pub(super) fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// Facts about the program that all ranks must share: its version and checksum.
pub fn program_facts() -> Map<String, Value> {
    let mut program = Map::new();
    let checksum = std::env::current_exe().ok().and_then(|path| {
        let file = std::fs::File::open(path).ok()?;
        // SAFETY: nobody writes to a program that runs.
        let bytes = unsafe { memmap2::Mmap::map(&file) }.ok()?;
        Some(format!(" ({:08x})", crc32fast::hash(&bytes)))
    });
    program.insert("nepa".into(), format!("{}{}", env!("CARGO_PKG_VERSION"), checksum.unwrap_or_default()).into());
    program
}
