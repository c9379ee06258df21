//! What processes have used, from /proc: CPU time and memory of a process and all that descend from it.

use std::collections::BTreeMap;

/// CPU time in seconds.
#[derive(Clone, Copy, Default)]
pub struct Cpu {
    pub user: f64,
    pub system: f64,
}

impl Cpu {
    pub fn total(self) -> f64 {
        self.user + self.system
    }

    pub fn since(self, earlier: Self) -> Self {
        Self { user: self.user - earlier.user, system: self.system - earlier.system }
    }
}

/// CPU time of these processes and their descendants, so far; what ended children have used is in it once they have
/// been waited for.
pub fn cpu(roots: &[u32]) -> Cpu {
    let mut sum = Cpu::default();
    for stat in tree(roots) {
        sum.user += stat.user;
        sum.system += stat.system;
    }
    sum
}

/// Proportional set size of these processes and their descendants, in KiB: memory that is shared counts once.
pub fn pss(roots: &[u32]) -> u64 {
    tree(roots)
        .iter()
        .filter_map(|stat| std::fs::read_to_string(format!("/proc/{}/smaps_rollup", stat.pid)).ok())
        .filter_map(|text| {
            let line = text.lines().find_map(|line| line.strip_prefix("Pss:"))?;
            line.trim().trim_end_matches("kB").trim().parse::<u64>().ok()
        })
        .sum()
}

/// The first of these processes that is not there.
pub fn missing(roots: &[u32]) -> Option<u32> {
    let all = processes();
    roots.iter().copied().find(|pid| !all.contains_key(pid))
}

#[derive(Clone, Copy)]
struct Stat {
    pid: u32,
    parent: u32,
    user: f64,
    system: f64,
}

fn tree(roots: &[u32]) -> Vec<Stat> {
    let all = processes();
    let belongs = |stat: &Stat| {
        let mut at = stat.pid;
        // A chain of parents is short; the bound holds if the table changed while it was read.
        for _ in 0..64 {
            if roots.contains(&at) {
                return true;
            }
            match all.get(&at) {
                Some(stat) if stat.parent != 0 => at = stat.parent,
                _ => return false,
            }
        }
        false
    };
    all.values().filter(|stat| belongs(stat)).copied().collect()
}

fn processes() -> BTreeMap<u32, Stat> {
    let Ok(folder) = std::fs::read_dir("/proc") else {
        return BTreeMap::new();
    };
    folder
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .filter_map(|pid| Some((pid, parse(pid, &std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)?)))
        .collect()
}

/// A line of /proc/PID/stat (proc_pid_stat(5)). The name, in parentheses, may hold anything.
fn parse(pid: u32, line: &str) -> Option<Stat> {
    let after = line.rsplit_once(')')?.1;
    let fields: Vec<&str> = after.split_ascii_whitespace().collect();
    let ticks = |at: usize| fields.get(at)?.parse::<u32>().ok().map(f64::from);
    // Counted from the third field, the state: 4 is ppid, 14 utime, 15 stime, 16 cutime, 17 cstime.
    let parent = fields.get(4 - 3)?.parse().ok()?;
    let user = (ticks(14 - 3)? + ticks(16 - 3)?) / TICKS;
    let system = (ticks(15 - 3)? + ticks(17 - 3)?) / TICKS;
    Some(Stat { pid, parent, user, system })
}

/// Ticks a second of /proc: 100 on every architecture that Linux has today (`getconf CLK_TCK`).
const TICKS: f64 = 100.0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_and_spaces_is_no_trouble() {
        let line = "7 (a) b (c) S 3 7 7 0 -1 4194560 1 2 3 4 250 50 100 25 20 0 1 0 99 0 0";
        let stat = parse(7, line).unwrap();
        assert_eq!((stat.parent, stat.user, stat.system), (3, 3.5, 0.75));
        assert!(parse(7, "7 (short) S 3").is_none());
    }

    #[test]
    fn this_process_is_there_and_uses_memory() {
        let own = [std::process::id()];
        assert!(missing(&own).is_none() && pss(&own) > 100);
        assert_eq!(missing(&[u32::MAX]), Some(u32::MAX));
    }
}
