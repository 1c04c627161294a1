//! `underpass-testapp`: the testbed's applications as a program, for the demo, for container images, and to try things
//! by hand within a pod's namespaces.

use std::{net::SocketAddr, os::unix::net::UnixStream, process::ExitCode, time::Duration};

use anyhow::{Context, Result, bail};
use underpass_tests::{
    apps::{
        grpc, http,
        servers::{self, Ping, Serve},
        socket::{self, Dial},
    },
    testbed::Io,
};

const USAGE: &str = "\
usage: underpass-testapp COMMAND
  echo ADDRESS [NAME]                      answer with who connected, then echo
  server-first ADDRESS [NAME]              the same, before anything was read
  sink ADDRESS                             read and check bulk data
  udp-echo ADDRESS                         echo datagrams
  grpc-health ADDRESS                      answer gRPC's health checks
  http ADDRESS NAME VERSION [URL...]       answer GET, calling the URLs meanwhile; print the paths
  get URL                                  GET and print
  dial ADDRESS [TEXT]                      connect, say something, print what came of it as JSON
  ask ADDRESS TEXT                         the same, and fail unless it is echoed
  udp-ask ADDRESS TEXT                     send a datagram and print the answer
ADDRESS is ip:port; [::]:port listens for both families";

/// Patience of `dial` and `ask`: longer than a mesh takes to know a new pod, or to refuse it.
const PATIENCE: Duration = Duration::from_secs(30);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments.iter().map(String::as_str).collect::<Vec<_>>()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("{e:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[&str]) -> Result<()> {
    // A server tells the starter of its actor that it listens; here that message has no reader.
    let (ours, _theirs) = UnixStream::pair()?;
    let mut io = Io::of(ours);
    let serve = |address: &str, name: &str| -> Result<Serve> { Ok(Serve::new(name, parse(address)?)) };
    match arguments {
        ["echo", address, name @ ..] => servers::run_echo(serve(address, name.first().unwrap_or(&"echo"))?, &mut io),
        ["server-first", address, name @ ..] => {
            let serve = serve(address, name.first().unwrap_or(&"server-first"))?;
            servers::run_echo(Serve { speaks_first: true, ..serve }, &mut io)
        }
        ["sink", address] => servers::run_sink(serve(address, "sink")?, &mut io),
        ["udp-echo", address] => servers::run_udp_echo(serve(address, "udp-echo")?, &mut io),
        ["grpc-health", address] => grpc::run(parse(address)?, &mut io),
        ["http", address, name, version, calls @ ..] => {
            let calls = calls.iter().map(|&url| url.into()).collect();
            let (name, version) = ((*name).into(), (*version).into());
            http::run_aloud(http::Service { name, version, address: parse(address)?, calls }, &mut io)
        }
        ["get", url] => {
            print!("{}", http::get(url)?);
            Ok(())
        }
        ["dial", address, text @ ..] => {
            let dial = Dial::to(parse(address)?).patience(PATIENCE);
            let dial = if text.is_empty() { dial } else { dial.say(&text.join(" ")) };
            println!("{}", serde_json::to_string(&socket::dial(dial)?)?);
            Ok(())
        }
        ["ask", address, text @ ..] => {
            let dial = Dial::to(parse(address)?).patience(PATIENCE).say(&text.join(" "));
            let talk = socket::dial(dial)?.answered()?;
            println!("{}", serde_json::to_string(&talk)?);
            Ok(())
        }
        ["udp-ask", address, text] => {
            println!("{}", servers::udp_ask(Ping { to: parse(address)?, say: (*text).into() })?);
            Ok(())
        }
        _ => bail!("{USAGE}"),
    }
}

fn parse(address: &str) -> Result<SocketAddr> {
    address.parse().with_context(|| format!("{address} is not ip:port"))
}
