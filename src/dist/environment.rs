//! How a process learns that it is one of several: from the environment variables of torchrun or of Slurm's srun.
//! `nepa run --nproc` sets torchrun's.

use crate::bail_hint;
use crate::error::Result;

/// A listening socket for the store, which `nepa run --nproc` hands to rank 0 so that no other program can take its
/// port in between.
pub const STORE_FD: &str = "NEPA_STORE_FD";
/// What torchrun sets, or a user by hand.
const VARIABLES: [&str; 4] = ["RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"];

/// How a launcher started this process: its ranks, and where the rendezvous is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterEnvironment {
    /// This process's rank, from 0.
    pub rank: usize,
    /// How many processes there are.
    pub world_size: usize,
    /// This process's rank on its machine, from 0.
    pub local_rank: usize,
    /// How many of the processes run on this machine.
    pub local_world_size: usize,
    /// The store's machine, which is rank 0's.
    pub host: String,
    /// The store's port.
    pub port: u16,
    /// A socket that listens there already, open in this process.
    pub listen_fd: Option<i32>,
    /// Whether torchrun's agent keeps the store; otherwise rank 0 does.
    pub agent_store: bool,
}

impl ClusterEnvironment {
    /// Reads the environment; `None` if there is only one process.
    pub fn from_env() -> Result<Option<Self>> {
        Self::read(&|name| std::env::var(name).ok().filter(|v| !v.is_empty()))
    }

    fn read(var: &dyn Fn(&str) -> Option<String>) -> Result<Option<Self>> {
        if var("RANK").is_some() || var("WORLD_SIZE").is_some() {
            return Self::from_torchrun(var);
        }
        // A batch script has the other variables too; only what srun starts has these.
        if var("SLURM_STEP_NUM_TASKS").is_some() && var("SLURM_PROCID").is_some() {
            return Self::from_slurm(var);
        }
        Ok(None)
    }

    fn from_torchrun(var: &dyn Fn(&str) -> Option<String>) -> Result<Option<Self>> {
        // A world of one process needs no rendezvous, unless that is what is to be tried.
        let is_alone = number(var, "WORLD_SIZE")? == Some(1) && number(var, "RANK")?.unwrap_or(0) == 0;
        if is_alone && var("NEPA_DIST_ALONE").is_none() {
            return Ok(None);
        }
        let missing: Vec<&str> = VARIABLES.into_iter().filter(|name| var(name).is_none()).collect();
        if !missing.is_empty() {
            let set: Vec<&str> = VARIABLES.into_iter().filter(|name| var(name).is_some()).collect();
            bail_hint!(
                "{} set in the environment, but not {}", words(&set, "is", "are"), missing.join(", ");
                "torchrun sets all of them; unset them to train with one process, or use `nepa run … --nproc N`"
            );
        }
        let needed = |name| -> Result<usize> { Ok(number(var, name)?.expect("checked above")) };
        let (rank, world_size) = (needed("RANK")?, needed("WORLD_SIZE")?);
        let environment = Self {
            rank,
            world_size,
            local_rank: number(var, "LOCAL_RANK")?.unwrap_or(0),
            local_world_size: number(var, "LOCAL_WORLD_SIZE")?.unwrap_or(1),
            host: var("MASTER_ADDR").expect("checked above"),
            port: port(needed("MASTER_PORT")?)?,
            listen_fd: number(var, STORE_FD)?.map(|fd| fd as i32),
            agent_store: var("TORCHELASTIC_USE_AGENT_STORE").as_deref() == Some("True"),
        };
        environment.checked("RANK", "WORLD_SIZE")
    }

    fn from_slurm(var: &dyn Fn(&str) -> Option<String>) -> Result<Option<Self>> {
        let needed = |name| -> Result<usize> {
            match number(var, name)? {
                Some(n) => Ok(n),
                None => {
                    bail_hint!("srun did not set {name}"; "start with `srun nepa run …`, or set RANK, WORLD_SIZE, …")
                }
            }
        };
        let world_size = needed("SLURM_STEP_NUM_TASKS")?;
        if world_size == 1 {
            return Ok(None);
        }
        let host = match var("MASTER_ADDR") {
            Some(host) => host,
            None => match var("SLURM_STEP_NODELIST").as_deref().and_then(first_host) {
                Some(host) => host,
                None => bail_hint!(
                    "srun did not set SLURM_STEP_NODELIST, so rank 0's machine is unknown";
                    "set MASTER_ADDR to its name or address"
                ),
            },
        };
        let at = match number(var, "MASTER_PORT")? {
            Some(port) => port,
            // Steps of one job, and jobs that share a machine, need different ports.
            None => {
                let job = number(var, "SLURM_JOB_ID")?.unwrap_or(0);
                20_000 + (job * 7 + number(var, "SLURM_STEP_ID")?.unwrap_or(0)) % 12_000
            }
        };
        let environment = Self {
            rank: needed("SLURM_PROCID")?,
            world_size,
            local_rank: needed("SLURM_LOCALID")?,
            // SLURM_NTASKS_PER_NODE is that of the job, not of the step.
            local_world_size: var("SLURM_STEP_TASKS_PER_NODE")
                .and_then(|list| tasks_here(&list, var("SLURM_NODEID")?.parse().ok()?))
                .unwrap_or(1),
            host,
            port: port(at)?,
            listen_fd: None,
            agent_store: false,
        };
        environment.checked("SLURM_PROCID", "SLURM_STEP_NUM_TASKS")
    }

    fn checked(self, rank: &str, size: &str) -> Result<Option<Self>> {
        if self.rank >= self.world_size {
            bail_hint!(
                "{rank} is {}, but {size} is {}", self.rank, self.world_size;
                "ranks go from 0 to {size} - 1"
            );
        }
        Ok(Some(self))
    }
}

fn port(number: usize) -> Result<u16> {
    match u16::try_from(number) {
        Ok(port) => Ok(port),
        Err(_) => bail_hint!("MASTER_PORT: expected a port, found {number}"; "ports are numbers below 65536"),
    }
}

/// How many cores srun gave this process; `None` if the processes of a machine share its cores.
pub fn slurm_cpus_per_task() -> Option<usize> {
    let var = |name| std::env::var(name).ok().filter(|v: &String| !v.is_empty());
    var("SLURM_STEP_NUM_TASKS").filter(|_| var("RANK").is_none())?;
    var("SLURM_CPUS_PER_TASK")?.parse().ok().filter(|n| *n > 0)
}

fn words(names: &[&str], one: &str, many: &str) -> String {
    format!("{} {}", names.join(", "), if names.len() == 1 { one } else { many })
}

fn number(var: &dyn Fn(&str) -> Option<String>, name: &str) -> Result<Option<usize>> {
    let Some(text) = var(name) else { return Ok(None) };
    match text.trim().parse() {
        Ok(n) => Ok(Some(n)),
        Err(_) => {
            bail_hint!("{name}: expected a non-negative integer, found \"{text}\""; "it is an environment variable")
        }
    }
}

/// The first machine of Slurm's list: "gpu[03-05,09],login" begins with gpu03.
fn first_host(list: &str) -> Option<String> {
    let end = list.find([',', '[']).unwrap_or(list.len());
    let (name, rest) = list.split_at(end);
    let Some(numbers) = rest.strip_prefix('[') else { return Some(name.to_string()).filter(|n| !n.is_empty()) };
    let (numbers, after) = numbers.split_once(']')?;
    let first = numbers.split([',', '-']).next()?;
    // What follows the bracket belongs to the name: "rack[1-2]-gpu".
    let tail = after.split([',', '[']).next()?;
    Some(format!("{name}{first}{tail}"))
}

/// The tasks on machine `node` of a list such as "8(x3),4".
fn tasks_here(list: &str, node: usize) -> Option<usize> {
    let mut first = 0;
    for part in list.split(',') {
        let (tasks, times) = match part.split_once("(x") {
            Some((tasks, times)) => (tasks, times.trim_end_matches(')').parse().ok()?),
            None => (part, 1),
        };
        if node < first + times {
            return tasks.parse().ok();
        }
        first += times;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    fn read(vars: &[(&str, &str)]) -> Result<Option<ClusterEnvironment>, String> {
        let vars: HashMap<&str, &str> = vars.iter().copied().collect();
        ClusterEnvironment::read(&|name| vars.get(name).map(|v| v.to_string())).map_err(|e| e.to_string())
    }

    #[test]
    fn torchruns_variables_are_honoured_and_checked() {
        let all = [("RANK", "3"), ("WORLD_SIZE", "4"), ("MASTER_ADDR", "node1"), ("MASTER_PORT", "29500")];
        let more = [("LOCAL_RANK", "1"), ("LOCAL_WORLD_SIZE", "2"), ("TORCHELASTIC_USE_AGENT_STORE", "True")];
        let environment = read(&[&all[..], &more[..]].concat()).unwrap().unwrap();
        assert_eq!((environment.rank, environment.local_rank, environment.local_world_size), (3, 1, 2));
        assert_eq!((environment.host.as_str(), environment.port, environment.agent_store), ("node1", 29500, true));
        assert_eq!(read(&[]), Ok(None));
        assert_eq!(read(&[("RANK", "0"), ("WORLD_SIZE", "1")]), Ok(None));
        let alone = [("RANK", "0"), ("WORLD_SIZE", "1"), ("MASTER_ADDR", "node1"), ("MASTER_PORT", "29500")];
        assert_eq!(read(&alone), Ok(None));
        let to_be_tried = [&alone[..], &[("NEPA_DIST_ALONE", "1")]].concat();
        assert_eq!(read(&to_be_tried).unwrap().unwrap().world_size, 1);
        let text = read(&[("WORLD_SIZE", "4"), ("RANK", "1")]).unwrap_err();
        assert_eq!(text, "RANK, WORLD_SIZE are set in the environment, but not MASTER_ADDR, MASTER_PORT");
        let mut wrong = all;
        wrong[0].1 = "4";
        assert_eq!(read(&wrong).unwrap_err(), "RANK is 4, but WORLD_SIZE is 4");
        wrong[0].1 = "two";
        assert_eq!(read(&wrong).unwrap_err(), "RANK: expected a non-negative integer, found \"two\"");
    }

    #[test]
    fn sruns_variables_are_honoured_and_a_batch_scripts_are_not() {
        let batch = [("SLURM_NTASKS", "16"), ("SLURM_PROCID", "0"), ("SLURM_JOB_ID", "123456")];
        assert_eq!(read(&batch), Ok(None));
        let step = [
            ("SLURM_STEP_NUM_TASKS", "16"),
            ("SLURM_PROCID", "9"),
            ("SLURM_LOCALID", "1"),
            ("SLURM_NODEID", "1"),
            ("SLURM_STEP_TASKS_PER_NODE", "8(x2)"),
            ("SLURM_STEP_NODELIST", "gpu[03-04]"),
            ("SLURM_JOB_ID", "123456"),
            ("SLURM_STEP_ID", "0"),
        ];
        let environment = read(&step).unwrap().unwrap();
        assert_eq!(
            (environment.rank, environment.world_size, environment.local_rank, environment.local_world_size),
            (9, 16, 1, 8)
        );
        assert_eq!(environment.host, "gpu03");
        assert!(environment.port >= 20_000);
        let other = [&step[..7], &[("SLURM_STEP_ID", "1")]].concat();
        assert_ne!(read(&other).unwrap().unwrap().port, environment.port);
    }

    #[test]
    fn slurms_lists_are_read() {
        for (list, first) in [
            ("gpu03", "gpu03"),
            ("gpu03,gpu07", "gpu03"),
            ("gpu[03-05,09],login", "gpu03"),
            ("gpu[7,9]", "gpu7"),
            ("r[1-2]-n,x", "r1-n"),
        ] {
            assert_eq!(first_host(list).as_deref(), Some(first), "{list}");
        }
        assert_eq!([0, 2, 3].map(|node| tasks_here("8(x3),4", node)), [Some(8), Some(8), Some(4)]);
        assert_eq!(tasks_here("8", 1), None);
    }
}
