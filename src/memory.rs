//! How much memory there is.

use std::sync::OnceLock;

/// Bytes of memory that this process could get at most: the machine's, with swap, or what its container allows. Without
/// a limit where the system does not tell.
pub fn total() -> u64 {
    static TOTAL: OnceLock<u64> = OnceLock::new();
    *TOTAL.get_or_init(|| find().unwrap_or(u64::MAX))
}

#[cfg(target_os = "linux")]
fn find() -> Option<u64> {
    let about = rustix::system::sysinfo();
    let unit = u64::from(about.mem_unit);
    #[allow(clippy::useless_conversion)] // 32 bits on some systems
    let [memory, swap] = [about.totalram, about.totalswap].map(|n| u64::from(n).saturating_mul(unit));
    let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    Some(memory.saturating_add(swap).min(limit_of_groups(&groups, swap, |file| std::fs::read_to_string(file).ok())))
}

#[cfg(not(target_os = "linux"))]
fn find() -> Option<u64> {
    None
}

/// The least limit of the control groups that a process is in (`/proc/self/cgroup`), each of which lies in another.
#[cfg(target_os = "linux")]
fn limit_of_groups(groups: &str, swap: u64, read: impl Fn(&str) -> Option<String>) -> u64 {
    let number = |file: String| read(&file)?.trim().parse::<u64>().ok();
    let mut least = u64::MAX;
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
        let is_v2 = controllers.is_empty();
        if !is_v2 && !controllers.split(',').any(|name| name == "memory") {
            continue;
        }
        let above = path.match_indices('/').map(|(end, _)| &path[..end]);
        for group in above.chain([path.trim_end_matches('/')]) {
            let limit = match is_v2 {
                true => number(format!("/sys/fs/cgroup{group}/memory.max")).map(|memory| {
                    let of_swap = number(format!("/sys/fs/cgroup{group}/memory.swap.max")).unwrap_or(swap);
                    memory.saturating_add(of_swap.min(swap))
                }),
                false => number(format!("/sys/fs/cgroup/memory{group}/memory.limit_in_bytes"))
                    .map(|memory| memory.saturating_add(swap)),
            };
            least = least.min(limit.unwrap_or(u64::MAX));
        }
    }
    least
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn a_machine_has_memory() {
        assert!(total() > 100 << 20, "{}", total());
    }

    #[test]
    fn the_least_limit_of_all_groups_counts() {
        let limit = |groups: &str, files: &[(&str, &str)]| {
            let read = |file: &str| files.iter().find(|(name, _)| *name == file).map(|(_, text)| format!("{text}\n"));
            limit_of_groups(groups, 100, read)
        };
        assert_eq!(limit("0::/\n", &[]), u64::MAX);
        assert_eq!(limit("0::/\n", &[("/sys/fs/cgroup/memory.max", "5000")]), 5100);
        let job = "0::/slurm/job_1/step\n";
        let files = [
            ("/sys/fs/cgroup/slurm/job_1/step/memory.max", "max"),
            ("/sys/fs/cgroup/slurm/job_1/memory.max", "2000"),
            ("/sys/fs/cgroup/slurm/job_1/memory.swap.max", "0"),
            ("/sys/fs/cgroup/slurm/memory.max", "9000"),
        ];
        assert_eq!(limit(job, &files), 2000);
        let old = "4:cpu,memory:/docker/x\n3:cpuset:/y\n";
        assert_eq!(limit(old, &[("/sys/fs/cgroup/memory/docker/x/memory.limit_in_bytes", "700")]), 800);
        assert_eq!(limit(old, &[("/sys/fs/cgroup/memory/y/memory.limit_in_bytes", "700")]), u64::MAX);
    }
}
