//! What to fetch: the pinned Python wheels that libtorch is made of, listed in `wheels.txt`.

use anyhow::{Context, Result, bail, ensure};

/// The version of libtorch that all wheels in the list belong to.
pub const VERSION: &str = "2.11.0";

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Variant {
    Cpu,
    Cuda,
}

impl Variant {
    /// As in `wheels.txt` and in the names of folders.
    pub fn name(self) -> &'static str {
        match self {
            Variant::Cpu => "cpu",
            Variant::Cuda => "cuda",
        }
    }

    /// For people.
    pub fn label(self) -> &'static str {
        match self {
            Variant::Cpu => "CPU",
            Variant::Cuda => "CUDA",
        }
    }
}

/// One line of `wheels.txt`.
pub struct Wheel {
    pub bytes: u64,
    pub unpacked: u64,
    pub sha256: String,
    pub file: String,
    /// Leading folders to leave out of unpacked names.
    pub strip: String,
    pub patterns: Vec<String>,
}

/// `linux-x86_64` and the like, as in `wheels.txt`.
pub fn platform() -> Result<String> {
    let platform = format!("{}-{}", std::env::consts::OS, std::env::consts::ARCH);
    let glibc = cfg!(any(not(target_os = "linux"), target_env = "gnu"));
    if glibc && ["linux-x86_64", "linux-aarch64", "macos-aarch64"].contains(&platform.as_str()) {
        return Ok(platform);
    }
    let libc = if glibc { "" } else { " without glibc" };
    bail!(
        "there is no ready-made libtorch 2.11.0 for {platform}{libc}. Set LIBTORCH to the folder of one that you \
         built (with include/ and lib/ in it), or LIBTORCH_USE_PYTORCH=1 if Python has PyTorch 2.11, and try again"
    )
}

/// The wheels of a layout, in the order to fetch them.
pub fn list(variant: Variant, platform: &str) -> Result<Vec<Wheel>> {
    // The tests put small wheels of their own in place of the pinned ones.
    let text = match std::env::var_os("NEPA_XTASK_WHEELS") {
        Some(path) => std::fs::read_to_string(&path)
            .with_context(|| format!("cannot read NEPA_XTASK_WHEELS={}", path.display()))?,
        None => include_str!("../wheels.txt").to_string(),
    };
    let mut wheels = Vec::new();
    for line in text.lines().filter(|l| !l.is_empty() && !l.starts_with('#')) {
        let fields: Vec<_> = line.split_whitespace().map(str::to_string).collect();
        ensure!(fields.len() >= 8, "malformed line in the list of wheels: {line}");
        if fields[0] == variant.name() && fields[1] == platform {
            wheels.push(Wheel {
                bytes: fields[2].parse()?,
                unpacked: fields[3].parse()?,
                sha256: fields[4].clone(),
                file: fields[5].clone(),
                strip: fields[6].clone(),
                patterns: fields[7..].to_vec(),
            });
        }
    }
    if wheels.is_empty() {
        bail!("there is no {} build of libtorch for {platform}", variant.label());
    }
    Ok(wheels)
}

impl Wheel {
    /// Name and version: wheels are called NAME-VERSION-PYTHON-ABI-PLATFORMS.whl.
    pub fn name(&self) -> &str {
        self.part(0)
    }

    /// A line for pip's requirements file, so that pip checks what arrives.
    pub fn requirement(&self) -> String {
        format!("{}=={} --hash=sha256:{}\n", self.part(0), self.part(1), self.sha256)
    }

    /// The Python that the wheel is for; any will do if it says `py3`.
    pub fn python(&self) -> String {
        match self.part(2).strip_prefix("cp3") {
            Some(minor) => format!("3.{minor}"),
            None => "3.12".into(),
        }
    }

    pub fn platforms(&self) -> impl Iterator<Item = &str> {
        self.part(4).trim_end_matches(".whl").split('.')
    }

    fn part(&self, index: usize) -> &str {
        self.file.split('-').nth(index).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_platform_has_its_wheels() {
        for (variant, platform, count) in [
            (Variant::Cpu, "linux-x86_64", 4),
            (Variant::Cpu, "linux-aarch64", 4),
            (Variant::Cpu, "macos-aarch64", 2),
            (Variant::Cuda, "linux-x86_64", 17),
            (Variant::Cuda, "linux-aarch64", 17),
        ] {
            let wheels = list(variant, platform).unwrap();
            assert_eq!(wheels.len(), count, "{platform}");
            assert!(wheels.iter().all(|w| w.sha256.len() == 64 && w.file.ends_with(".whl")), "{platform}");
        }
        assert!(list(Variant::Cuda, "macos-aarch64").is_err());
    }

    #[test]
    fn a_wheel_tells_what_pip_needs() {
        let torch = &list(Variant::Cpu, "linux-x86_64").unwrap()[0];
        assert!(torch.requirement().starts_with("torch==2.11.0 --hash=sha256:0f68"));
        assert_eq!(torch.python(), "3.12");
        assert_eq!(torch.platforms().collect::<Vec<_>>(), ["manylinux_2_28_x86_64"]);
    }
}
