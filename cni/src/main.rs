//! The binary of the CNI plugin: reads the call, asks the agent, prints the answer.

use std::{
    env,
    fs::File,
    io::{self, Read as _, Write as _},
    os::fd::AsFd as _,
    process::ExitCode,
};

use underpass_cni::{
    client::{self, NEXT_AGENT_WITHIN, TELLS_WITHIN},
    failure::{Code, Failure},
    namespaces::Namespaces,
    plugin::{self, Command, Question, Step},
    protocol::{ANSWERS_WITHIN, Request},
};

fn main() -> ExitCode {
    let mut stdin = Vec::new();
    let (said, code) = match run(&mut stdin) {
        Ok(said) => (said, ExitCode::SUCCESS),
        Err(failure) => (failure.json(&plugin::version(&stdin)), ExitCode::FAILURE),
    };
    match io::stdout().write_all(said.as_bytes()) {
        Ok(()) => code,
        Err(_) => ExitCode::FAILURE,
    }
}

fn run(stdin: &mut Vec<u8>) -> Result<String, Failure> {
    let variable = |name: &str| env::var(name).ok();
    let command = Command::parse(variable("CNI_COMMAND").as_deref())?;
    let read = io::stdin().read_to_end(stdin);
    read.map_err(|e| Failure::new(Code::Io, "cannot read the network configuration", e.to_string()))?;
    match plugin::decide(command, variable, stdin)? {
        Step::Print(said) => Ok(said),
        Step::Tell { socket, request } => {
            let ask = || client::ask(&socket, &request, None, TELLS_WITHIN);
            let _ = client::again(ask, TELLS_WITHIN); // its absence changes nothing
            Ok(String::new())
        }
        Step::Ask(question) => ask(*question),
    }
}

fn ask(question: Question) -> Result<String, Failure> {
    let (netns, list) = (&question.sandbox.netns, question.config.namespaces.clone());
    let namespace = File::open(netns).map_err(|e| {
        let msg = format!("cannot open CNI_NETNS {}: {e}", netns.display());
        Failure::new(Code::Io, msg, format!("of the pod {}", question.sandbox.pod))
    })?;
    let request = Request::Add(question.sandbox.clone());
    let ask = || client::ask(&question.config.socket, &request, Some(namespace.as_fd()), ANSWERS_WITHIN);
    let answer = client::again(ask, NEXT_AGENT_WITHIN);
    question.conclude(answer, || Namespaces::read(&list))
}
