//! Measures how long a good client waits while others hold connections open and send almost
//! nothing.
//!
//! Every slow client sends one byte of a request a second, and comes back when it is let go. The
//! good client asks on one connection, and on a new one for each request.

use std::error::Error;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::follow::body;
use crate::measure::{KilledOnDrop, median, now};

const REQUESTS: usize = 2000;
const DEADLINE: Duration = Duration::from_secs(10);
const SLOW: &[u8] = b"GET /tags/slowly HTTP/1.1\r\nHost: bench\r\nX: abcdefghijklmnopqrstuvwxyz";

/// Prints the waits with `slow` slow clients, for several limits of open files.
pub(crate) fn print(tagflow: &Path, state: &Path, slow: usize) -> Result<(), Box<dyn Error>> {
    api::raise_open_files();
    println!(
        "| open files | slow clients | came back | connection | failed | p50 ms | p99 ms | max ms |"
    );
    println!("| ---: | ---: | ---: | --- | ---: | ---: | ---: | ---: |");
    for files in ["16384", "1024"] {
        for slow in [0, slow] {
            let (_serve, address) = serve(tagflow, state, files)?;
            let crowd = Crowd::start(&address, slow)?;
            for (name, kept) in [("kept", true), ("new", false)] {
                let (waits, failed) = waits(&address, kept)?;
                let back = crowd.back.load(Ordering::Relaxed);
                let last = waits.len().checked_sub(1).ok_or("no request was answered")?;
                let p99 = waits[(waits.len() * 99).div_ceil(100) - 1];
                println!(
                    "| {files} | {slow} | {back} | {name} | {failed} | {:.2} | {p99:.2} | {:.2} |",
                    median(&waits),
                    waits[last],
                );
            }
        }
    }
    Ok(())
}

fn serve(
    tagflow: &Path,
    state: &Path,
    files: &str,
) -> Result<(KilledOnDrop, String), Box<dyn Error>> {
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -n $1; exec \"$0\" serve --listen 127.0.0.1:0 --state \"$2\""]);
    command.arg(tagflow).arg(files).arg(state);
    let mut child = KilledOnDrop(command.stdout(Stdio::piped()).spawn()?);
    let out = child.0.stdout.take().ok_or("no standard output")?;
    let mut url = String::new();
    BufReader::new(out).read_line(&mut url)?;
    let address = url.trim().strip_prefix("http://").ok_or("serve printed no URL")?;
    Ok((child, address.to_owned()))
}

/// Slow clients, gone when dropped.
struct Crowd {
    stop: Arc<AtomicBool>,
    /// How often one of them was let go and came back.
    back: Arc<AtomicU64>,
}

impl Crowd {
    fn start(address: &str, slow: usize) -> Result<Self, Box<dyn Error>> {
        let connect = |address: &str| -> std::io::Result<TcpStream> {
            let stream = TcpStream::connect(address)?;
            stream.set_nonblocking(true)?;
            Ok(stream)
        };
        let mut clients = Vec::new();
        for _ in 0..slow {
            clients.push((connect(address)?, 0));
        }
        let crowd = Self { stop: Arc::default(), back: Arc::default() };
        let (stop, back, address) =
            (Arc::clone(&crowd.stop), Arc::clone(&crowd.back), address.to_owned());
        std::thread::spawn(move || {
            let pause = Duration::from_secs(1) / (clients.len() as u32 / 20 + 1);
            while !stop.load(Ordering::Acquire) {
                for some in clients.chunks_mut(20) {
                    for (stream, sent) in some {
                        let next = *sent % SLOW.len();
                        if stream.write_all(&SLOW[next..=next]).is_ok() {
                            *sent += 1;
                        } else if let Ok(again) = connect(&address) {
                            back.fetch_add(1, Ordering::Relaxed);
                            (*stream, *sent) = (again, 0);
                        }
                    }
                    std::thread::park_timeout(pause);
                }
            }
        });
        Ok(crowd)
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
    }
}

fn connect(address: &str) -> std::io::Result<BufReader<TcpStream>> {
    let stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(DEADLINE))?;
    Ok(BufReader::new(stream))
}

/// Milliseconds until each answer, ascending, and how many requests failed.
fn waits(address: &str, kept: bool) -> Result<(Vec<f64>, usize), Box<dyn Error>> {
    let (mut waits, mut failed) = (Vec::new(), 0);
    let mut connection = connect(address)?;
    for _ in 0..REQUESTS {
        let start = now();
        if !kept {
            connection = connect(address)?;
        }
        let asked = connection.get_mut().write_all(b"GET / HTTP/1.1\r\nHost: bench\r\n\r\n");
        if asked.is_ok() && body(&mut connection).is_ok() {
            waits.push(start.elapsed().as_secs_f64() * 1e3);
        } else {
            failed += 1;
            connection = connect(address)?;
        }
        std::thread::park_timeout(Duration::from_millis(2));
    }
    waits.sort_by(f64::total_cmp);
    Ok((waits, failed))
}
