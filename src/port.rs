//! Which process listens on a port of this host; known on Linux only.

use std::fs;
use std::path::Path;

/// The process that listens on `port`, such as `process 123 (nginx)`, if that can be found out.
pub(crate) fn holder(port: u16) -> Option<String> {
    let inodes = ["/proc/net/tcp", "/proc/net/tcp6"].map(|table| {
        let table = fs::read_to_string(table).ok()?;
        table.lines().skip(1).find_map(|line| listening_inode(line, port))
    });
    let inode = inodes.into_iter().flatten().next()?;
    let socket = format!("socket:[{inode}]");
    for process in fs::read_dir("/proc").ok()?.flatten() {
        let Ok(pid) = process.file_name().to_string_lossy().parse::<u32>() else { continue };
        let files = fs::read_dir(process.path().join("fd")).into_iter().flatten().flatten();
        let mut links = files.filter_map(|file| fs::read_link(file.path()).ok());
        if links.any(|link| link == Path::new(&socket)) {
            let name = fs::read_to_string(process.path().join("comm")).ok()?;
            return Some(format!("process {pid} ({})", name.trim()));
        }
    }
    None
}

/// The inode in a line of the kernel's table, if it is a socket listening on `port`.
fn listening_inode(line: &str, port: u16) -> Option<u64> {
    const LISTEN: &str = "0A";
    let fields: Vec<&str> = line.split_whitespace().collect();
    let (local, state, inode) = (fields.get(1)?, fields.get(3)?, fields.get(9)?);
    let local_port = u16::from_str_radix(local.rsplit(':').next()?, 16).ok()?;
    (local_port == port && *state == LISTEN).then(|| inode.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listening_sockets_are_recognised() {
        let line = "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4242 1 0 100 0 0 10 0";
        assert_eq!(listening_inode(line, 8080), Some(4242));
        assert_eq!(listening_inode(line, 8081), None);
    }

    #[test]
    fn process_is_found_by_its_port() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let found = holder(listener.local_addr().unwrap().port());
        if cfg!(target_os = "linux") {
            assert!(found.unwrap().contains(&format!("process {}", std::process::id())));
        }
    }
}
