//! The budget of memory: waiting bytes are counted, nothing grows where it is short, and where it is used up the streams that have
//! stood still for longest make room for the others.

use std::{rc::Rc, sync::Arc};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    task::spawn_local,
};
use underpass_hbone::{ErrorCode, Headers};
use underpass_net::{
    budget::{Budget, Level, Share},
    tunnel::{Ended, Memory},
};

use underpass_net::testing::{Application, Call, Mesh, call, carry, converse, echo, pattern, run, until};

/// A stream's window at first.
const WINDOW: u32 = 256 << 10;

pub(crate) fn mesh(pod_memory: usize) -> Mesh {
    let mut mesh = Mesh::new();
    mesh.share = Share::new(&Budget::new(1 << 30), pod_memory);
    mesh.memory = Memory::new(Arc::clone(&mesh.share));
    mesh
}

/// Writes until this stream and everything on its way is full.
async fn fill(call: &Call) {
    let block = pattern(64 << 10);
    let mut quiet = 0;
    while quiet < 20 {
        quiet = if call.app.try_write(&block).is_ok() { 0 } else { quiet + 1 };
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
}

#[test]
fn the_longest_stalled_make_room() {
    // Twenty streams need 5 MiB and more; with 2 MiB for all of them the first ones have to go, with plenty none.
    for (pod_memory, all_stay) in [(2 << 20, false), (512 << 20, true)] {
        run(async {
            let mut mesh = mesh(pod_memory);
            mesh.settings.hbone.stream_window_max = WINDOW;
            let (tunnel, _server) = mesh.pair().await;
            let silent = Application::new("127.0.0.1:0").await;
            let (mut calls, mut apps) = (Vec::new(), Vec::new());
            for _ in 0..20 {
                calls.push(call(&tunnel, silent.address).await);
                apps.push(silent.accept().await);
                fill(calls.last().expect("one")).await;
                assert!(mesh.share.used() <= pod_memory, "{} bytes wait", mesh.share.used());
            }
            if !all_stay {
                until("a stream is given up", || calls.iter().any(|call| call.ended.is_finished())).await;
            }
            let ended: Vec<bool> = calls.iter().map(|call| call.ended.is_finished()).collect();
            let gone = ended.iter().filter(|ended| **ended).count();
            assert_eq!(gone == 0, all_stay, "{ended:?}");
            assert!(ended.iter().skip(gone).all(|ended| !ended), "the first ones: {ended:?}");
            assert!(gone <= 16, "no more than it takes: {ended:?}");
            // An application that reads gets everything, however much.
            let mut other = call(&tunnel, echo("127.0.0.1:0").await).await;
            let payload = pattern(4 << 20);
            assert!(converse(&mut other.app, &payload).await.expect("answered") == payload);
            assert_eq!(other.ended().await, Ended::Finished);
            for (call, was) in calls.into_iter().zip(ended) {
                if was {
                    assert_eq!(call.ended().await, Ended::PeerReset(ErrorCode::ENHANCE_YOUR_CALM));
                }
            }
            drop(apps);
            until("nothing is held", || mesh.share.used() == 0).await;
        });
    }
}

#[test]
fn a_slow_reader_outlives_those_who_read_nothing() {
    run(async {
        let mut mesh = mesh(2 << 20);
        mesh.settings.hbone.stream_window_max = WINDOW;
        let (tunnel, _server) = mesh.pair().await;
        let application = Application::new("127.0.0.1:0").await;
        let slow = call(&tunnel, application.address).await;
        let mut reads = application.accept().await;
        fill(&slow).await;
        let (mut calls, mut apps, mut buffer) = (Vec::new(), Vec::new(), vec![0; 512 << 10]);
        for _ in 0..20 {
            calls.push(call(&tunnel, application.address).await);
            apps.push(application.accept().await);
            fill(calls.last().expect("one")).await;
            // The oldest of all, and the slowest that still moves.
            reads.read_exact(&mut buffer).await.expect("read");
            fill(&slow).await;
        }
        until("some of them end", || calls.iter().filter(|call| call.ended.is_finished()).count() >= 4).await;
        assert!(!slow.ended.is_finished());
    });
}

#[test]
fn windows_grow_only_while_there_is_plenty() {
    for (held, grows) in [(0, true), (40 << 20, false)] {
        run(async {
            let mesh = mesh(64 << 20);
            let _others = mesh.share.reserve(held);
            assert_eq!(mesh.share.level() == Level::Plenty, grows);
            let (tunnel, server) = mesh.pair().await;
            let application = Application::new("127.0.0.1:0").await;
            let call = call(&tunnel, application.address).await;
            let mut reads = application.accept().await;
            let (mut app, block) = (call.app, pattern(1 << 20));
            let sending = spawn_local(async move { while app.write_all(&block).await.is_ok() {} });
            // It keeps up for a while, then stands still.
            let mut buffer = vec![0; 1 << 20];
            for _ in 0..64 {
                reads.read_exact(&mut buffer).await.expect("read");
            }
            let (far, window) = (server.tunnel(), WINDOW as usize);
            until("the window is used up", || far.queued().input >= window / 2).await;
            if grows {
                until("a window that has grown", || far.queued().input > 2 * window).await;
            } else {
                fill(&Call {
                    app: underpass_net::testing::tcp_pair().await.0,
                    ended: spawn_local(async { Ended::Finished }),
                })
                .await;
                assert!(far.queued().input <= window, "{:?}", far.queued());
            }
            drop(reads);
            sending.await.expect("no panic");
        });
    }
}

#[test]
fn early_data_waits_where_there_is_no_room_for_it() {
    for (held, early) in [(0, 64 << 10), (3 << 20, 0)] {
        run(async {
            let mesh = mesh(2 << 20);
            let (asked, mut answers) = tokio::sync::mpsc::unbounded_channel();
            let server = mesh.serve(move |accepted| drop(asked.send(accepted))).await;
            let tunnel = mesh.tunnel(server.address);
            let others = mesh.share.reserve(held);
            let (mut app, socket) = underpass_net::testing::tcp_pair().await;
            let stream = tunnel.open(&underpass_net::testing::request("unanswered")).expect("opened");
            let memory = mesh.memory.clone();
            let ended = spawn_local(async move {
                let mut early = underpass_net::tunnel::EarlyData::of(&memory);
                stream.run(&Rc::new(socket), &Arc::default(), &mut early).await
            });
            let payload = pattern(64 << 10);
            app.write_all(&payload).await.expect("taken by the kernel");
            let accepted = answers.recv().await.expect("asked");
            if early > 0 {
                // Kept here, and held at the other end, whose application is not there yet.
                until("it is kept", || mesh.share.used() >= 2 * early).await;
            } else {
                let _asked = tunnel.open(&underpass_net::testing::request("a round trip")).expect("opened");
                answers.recv().await.expect("asked");
                assert_eq!(mesh.share.used(), held);
            }
            drop(others);
            accepted.stream.respond(200, &Headers::new());
            let (far, application) = underpass_net::testing::tcp_pair().await;
            let carried = spawn_local(async move { carry(&accepted.stream, application).await });
            let (mut from, mut to) = far.into_split();
            let mut read = vec![0; payload.len()];
            from.read_exact(&mut read).await.expect("all of it");
            assert!(read == payload);
            to.shutdown().await.expect("ended");
            app.shutdown().await.expect("ended");
            assert_eq!(
                (ended.await.expect("no panic"), carried.await.expect("no panic")),
                (Ended::Finished, Ended::Finished)
            );
            until("nothing is held", || mesh.share.used() == 0).await;
        });
    }
}
