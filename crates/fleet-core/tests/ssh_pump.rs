//! Bytes both ways between a stream and two descriptors: sockets, pipes, files; half closes and early ends.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod ssh_support;

use std::{
    fs::File,
    io::{Read, Write},
    net::Shutdown,
    os::{fd::OwnedFd, unix::net::UnixStream},
    thread,
};

use fleet_core::{
    deadline::Deadline,
    ssh::{Pumped, SocketStream, Transport, pump},
};
use ssh_support::Sshd;

const LOT: usize = 24 << 20;

fn pattern() -> Vec<u8> {
    (0..LOT as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

/// Writes a lot and reads it back at once, through whatever is on the other side of the two files.
fn echoed(mut to: File, mut from: File) {
    let writer = thread::spawn(move || to.write_all(&pattern()).unwrap());
    let mut back = Vec::new();
    from.read_to_end(&mut back).unwrap();
    writer.join().unwrap();
    assert!(back == pattern(), "{} bytes came back", back.len());
}

fn echo_server(mut peer: UnixStream) {
    let mut reader = peer.try_clone().unwrap();
    std::io::copy(&mut reader, &mut peer).unwrap();
    peer.shutdown(Shutdown::Both).unwrap();
}

fn pipe() -> (File, File) {
    let (read, write) = rustix::pipe::pipe().unwrap();
    (read.into(), write.into())
}

fn file(socket: UnixStream) -> File {
    File::from(OwnedFd::from(socket))
}

#[test]
fn a_lot_goes_both_ways_over_pipes_and_the_end_of_input_is_a_half_close() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let server = thread::spawn(move || echo_server(theirs));
    let ((input, feed), (drain, output)) = (pipe(), pipe());
    let pumping = thread::spawn(move || pump(&mut SocketStream::from(ours), input, output).unwrap());
    echoed(feed, drain);
    assert_eq!(pumping.join().unwrap(), Pumped { sent: LOT as u64, received: LOT as u64 });
    server.join().unwrap();
}

#[test]
fn a_lot_goes_both_ways_over_one_socket() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let server = thread::spawn(move || echo_server(theirs));
    let (local, user) = UnixStream::pair().unwrap();
    let pumping = thread::spawn(move || {
        let output = local.try_clone().unwrap();
        let pumped = pump(&mut SocketStream::from(ours), &local, &output).unwrap();
        local.shutdown(Shutdown::Both).unwrap();
        pumped
    });
    let reader = file(user.try_clone().unwrap());
    let mut writer = user.try_clone().unwrap();
    let writing = thread::spawn(move || {
        writer.write_all(&pattern()).unwrap();
        writer.shutdown(Shutdown::Write).unwrap();
    });
    let mut back = Vec::new();
    (&reader).read_to_end(&mut back).unwrap();
    assert!(back == pattern(), "{} bytes came back", back.len());
    writing.join().unwrap();
    assert_eq!(pumping.join().unwrap().received, LOT as u64);
    server.join().unwrap();
}

#[test]
fn the_stream_s_end_is_the_end_although_input_is_open() {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let ((input, _feed), (mut drain, output)) = (pipe(), pipe());
    let pumping = thread::spawn(move || pump(&mut SocketStream::from(ours), input, output).unwrap());
    theirs.write_all(b"bye").unwrap();
    drop(theirs);
    let mut said = String::new();
    drain.read_to_string(&mut said).unwrap();
    assert_eq!((said.as_str(), pumping.join().unwrap()), ("bye", Pumped { sent: 0, received: 3 }));
}

#[test]
fn nobody_reading_the_output_is_the_end() {
    let (ours, _theirs) = UnixStream::pair().unwrap();
    let ((input, _feed), (drain, output)) = (pipe(), pipe());
    let pumping = thread::spawn(move || pump(&mut SocketStream::from(ours), input, output).unwrap());
    drop(drain);
    assert_eq!(pumping.join().unwrap(), Pumped::default());
}

#[test]
fn a_regular_file_can_be_the_output() {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let (input, feed) = pipe();
    drop(feed);
    let mut output = tempfile::tempfile().unwrap();
    let out = output.try_clone().unwrap();
    let pumping = thread::spawn(move || pump(&mut SocketStream::from(ours), input, out).unwrap());
    theirs.write_all(&pattern()).unwrap();
    drop(theirs);
    pumping.join().unwrap();
    use std::io::Seek;
    output.rewind().unwrap();
    let mut all = Vec::new();
    output.read_to_end(&mut all).unwrap();
    assert!(all == pattern());
}

#[test]
fn a_lot_goes_both_ways_through_sshd() {
    let Some(sshd) = Sshd::start("") else { return };
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = thread::spawn(move || {
        let (mut socket, _) = listener.accept().unwrap();
        let mut reader = socket.try_clone().unwrap();
        std::io::copy(&mut reader, &mut socket).unwrap();
    });
    let session = sshd.connect();
    let mut stream = session.open_tcp("127.0.0.1", port, Deadline::secs(180)).unwrap();
    let ((input, feed), (drain, output)) = (pipe(), pipe());
    let pumping = thread::spawn(move || pump(&mut *stream, input, output).unwrap());
    echoed(feed, drain);
    assert_eq!(pumping.join().unwrap(), Pumped { sent: LOT as u64, received: LOT as u64 });
    server.join().unwrap();
}
