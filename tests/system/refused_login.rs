//! A broker that refuses a login, played by a test: the message says so, also with the client's
//! debug log on, and shows no password.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use super::harness::{fails, folder};

const API_VERSIONS: i16 = 18;
const SASL_HANDSHAKE: i16 = 17;
const SASL_AUTHENTICATE: i16 = 36;
const UNSUPPORTED_VERSION: i16 = 35;
const SASL_AUTHENTICATION_FAILED: i16 = 58;

/// Answers one connection like a broker that does not know the user.
fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    loop {
        let mut length = [0; 4];
        stream.read_exact(&mut length)?;
        let mut request = vec![0; u32::from_be_bytes(length) as usize];
        stream.read_exact(&mut request)?;
        let number = |at: usize| i16::from_be_bytes([request[at], request[at + 1]]);
        let (api, version) = (number(0), number(2));
        // The correlation id, then the answer.
        let mut reply = request[4..8].to_vec();
        let mut put = |numbers: &[i16]| numbers.iter().for_each(|n| reply.extend(n.to_be_bytes()));
        match api {
            API_VERSIONS if version > 0 => put(&[UNSUPPORTED_VERSION, 0, 0]),
            // No error, then an array of (API, least version, largest version).
            API_VERSIONS => {
                let known = [[1, 4, 11], [2, 1, 5], [3, 0, 4], [17, 1, 1], [18, 0, 0], [36, 0, 0]];
                put(&[0, 0, known.len() as i16]);
                known.iter().for_each(|api| put(api));
            }
            SASL_HANDSHAKE => {
                put(&[0, 0, 1, 5]);
                reply.extend(b"PLAIN");
            }
            SASL_AUTHENTICATE => {
                let why = b"Authentication failed: Invalid username or password";
                put(&[SASL_AUTHENTICATION_FAILED, why.len() as i16]);
                reply.extend(why);
                reply.extend([0; 4]);
            }
            api => panic!("the client goes on without a login, with request {api}"),
        }
        stream.write_all(&(reply.len() as u32).to_be_bytes())?;
        stream.write_all(&reply)?;
    }
}

#[test]
fn wrong_password_is_told_as_that_with_the_debug_log_on_or_off() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || answer(stream));
        }
    });
    let folder = folder();
    for debug in ["", "--kafka debug=all"] {
        let error = fails(
            &format!(
                "run --input kafka://{address}/posts --state {} --bounded {debug} \
                 --kafka security.protocol=sasl_plaintext --kafka sasl.mechanism=PLAIN \
                 --kafka sasl.username=user --kafka sasl.password=hunter2",
                folder.path().join("state").display()
            ),
            1,
        );
        let want = format!("authentication failed: the brokers of {address} refuse the connection");
        assert!(error.contains(&want) && error.contains("Invalid username"), "{debug}: {error}");
        assert!(!error.contains("hunter2"), "{error}");
    }
}
