//! The questions of `new`: whatever no flag says is asked for on a terminal, with a way back.

use std::net::IpAddr;

use fleet_core::{
    Error, Result,
    definitions::{Definitions, Entry},
    nix::edit::quote_string,
    protocol::Resource,
    types::{Cidr, DiskSize, Vmid},
    ui::{Ui, can_ask},
};

use super::answers::{Answers, Attr, Ground, NewArgs, NewIp};

/// Cores, memory in MiB and disk of a VM whose definition says nothing else.
const USUAL: (u32, u64, &str) = (2, 4096, "20G");
/// The answer that leads back to the question before.
const BACK: &str = "<";

/// What is asked for, in this order.
#[derive(Debug, Clone, Copy)]
enum Question {
    Vmid,
    Cores,
    Memory,
    Disk,
    Storage,
    Address,
    Gateway,
    Purpose,
}

const QUESTIONS: [Question; 8] = {
    use Question::{Address, Cores, Disk, Gateway, Memory, Purpose, Storage, Vmid};
    [Vmid, Cores, Memory, Disk, Storage, Address, Gateway, Purpose]
};

/// What became of a question.
#[derive(Debug, Clone, Copy)]
enum Put {
    /// A flag answers it, or it is of no use.
    Passed,
    Answered,
    Back,
}

/// Flags, completed by questions.
pub(super) fn complete<'a>(ui: Ui, args: &'a NewArgs, ground: &Ground<'_>) -> Result<Answers<'a>> {
    let Ground { definitions, cluster, .. } = *ground;
    let name = &args.name;
    if let Some(there) = cluster.into_iter().flatten().find(|r| r.name.as_deref() == Some(name.as_str())) {
        return Err(Error::conflict(format!(
            "the name '{name}' is taken by {} on node {}",
            there.vmid, there.node
        ))
        .now("nothing was changed"));
    }
    let asks = can_ask() && !args.change.yes;
    let vmid = match args.vmid {
        Some(vmid) => vmid,
        None => super::offered(definitions, args.range.as_deref(), cluster)?,
    };
    let mut answers = Answers {
        args,
        vmid,
        cores: USUAL.0,
        memory: USUAL.1,
        disk: USUAL.2.parse()?,
        storage: args.storage.clone(),
        ip: args.ip.and_then(NewIp::fixed),
        gateway: args.gateway,
        purpose: args.purpose.clone(),
    };
    let ui = ui.before_question(asks);
    if asks {
        ui.say(format!("  Enter takes what stands in brackets; {BACK} leads back to the question before"));
        if args.vmid.is_none() && args.range.is_none() {
            super::ranges(definitions, cluster).iter().for_each(|line| ui.say(format!("  {line}")));
        }
    }
    let asker = Asker { ui, asks, ground };
    let (mut at, mut answered) = (0, Vec::new());
    while let Some(question) = QUESTIONS.get(at) {
        match asker.put(*question, &mut answers)? {
            Put::Passed => at += 1,
            Put::Answered => {
                answered.push(at);
                at += 1;
            }
            // Before the first there is none.
            Put::Back => at = answered.pop().unwrap_or(at),
        }
    }
    Ok(answers)
}

struct Asker<'a> {
    ui: Ui,
    asks: bool,
    ground: &'a Ground<'a>,
}

impl Asker<'_> {
    fn put(&self, question: Question, answers: &mut Answers<'_>) -> Result<Put> {
        let args = answers.args;
        let with = |name: &'static str, value: String| self.valid(&[(name, value)]);
        match question {
            Question::Vmid => self.number("VMID", args.vmid, &mut answers.vmid, |vmid| {
                free(*vmid, self.ground.definitions, self.ground.cluster)?;
                with("vmid", vmid.to_string())
            }),
            Question::Cores => {
                self.number("CPU cores", args.cores, &mut answers.cores, |n| with("cores", n.to_string()))
            }
            Question::Memory => self
                .number("Memory in MiB", args.memory, &mut answers.memory, |n| with("memory", n.to_string())),
            Question::Disk => self.number("Disk", args.disk, &mut answers.disk, |_| Ok(())),
            Question::Storage => self.storage(answers),
            Question::Address => self.address(answers),
            Question::Gateway => self.gateway(answers),
            Question::Purpose => self.purpose(answers),
        }
    }

    fn valid(&self, attrs: &[Attr]) -> Result<()> {
        (self.ground.valid)(attrs)
    }

    /// Asks until the answer is one, or leads back.
    fn ask<T>(&self, prompt: &str, read: impl Fn(&str) -> Result<T>) -> Result<Option<T>> {
        self.ui.ask_until(prompt, |text| if text == BACK { Ok(None) } else { read(text).map(Some) })
    }

    /// The given value, which must do; else the answer to a question; else what stands there already.
    fn number<T: Answer>(
        &self,
        what: &str,
        given: Option<T>,
        value: &mut T,
        check: impl Fn(&T) -> Result<()>,
    ) -> Result<Put>
    where
        T::Err: std::fmt::Display,
    {
        if let Some(given) = given {
            check(&given)?;
            *value = given;
            return Ok(Put::Passed);
        }
        if !self.asks {
            return Ok(Put::Passed);
        }
        let usual = *value;
        let answer = self.ask(&format!("{what} [{usual}]: "), |text| {
            let number = text.bytes().all(|b| b.is_ascii_digit()) || !T::WHOLE;
            let value = match text {
                "" => usual,
                text if !number => {
                    return Err(Error::usage(format!("'{}' is not a whole number", text.escape_debug())));
                }
                text => text.parse::<T>().map_err(|e| Error::usage(e.to_string()))?,
            };
            check(&value).map(|()| value)
        })?;
        Ok(into(value, answer))
    }

    /// Only where no storage is the usual one.
    fn storage(&self, answers: &mut Answers<'_>) -> Result<Put> {
        if answers.args.storage.is_some() || self.ground.definitions.proxmox.default_storage.is_some() {
            return Ok(Put::Passed);
        }
        if !self.asks {
            return Err(Error::usage("which storage? the definitions have no defaultStorage")
                .now("nothing was changed")
                .hint("give --storage"));
        }
        let before = answers.storage.clone();
        let offered = before.as_ref().map(|it| format!(" [{it}]")).unwrap_or_default();
        let answer = self.ask(&format!("Storage{offered}: "), |text| match (text, &before) {
            ("", Some(before)) => Ok(before.clone()),
            (text, _) => text.parse(),
        })?;
        Ok(into(&mut answers.storage, answer.map(Some)))
    }

    fn address(&self, answers: &mut Answers<'_>) -> Result<Put> {
        if answers.args.ip.is_some() || !self.asks {
            return Ok(Put::Passed);
        }
        let before = answers.ip;
        let offered = before.map_or_else(|| "dhcp".to_owned(), |ip| ip.to_string());
        let prompt = format!("Address, such as 192.0.2.10/24, or dhcp [{offered}]: ");
        let answer = self.ask(&prompt, |text| match text {
            "" => Ok(before),
            text => match text.parse::<NewIp>()?.fixed() {
                None => Ok(None),
                Some(ip) => self.valid(&[("ip", quote_string(text))]).map(|()| Some(ip)),
            },
        })?;
        Ok(into(&mut answers.ip, answer))
    }

    /// Only where the address is a fixed one.
    fn gateway(&self, answers: &mut Answers<'_>) -> Result<Put> {
        let ip = match answers.ip {
            Some(ip) if self.asks && answers.args.gateway.is_none() => ip,
            _ => {
                answers.gateway = answers.args.gateway;
                return Ok(Put::Passed);
            }
        };
        // One of another network was another address's.
        let before = answers.gateway.filter(|gateway| self.leads(ip, *gateway).is_ok());
        let prompt = match before {
            Some(gateway) => format!("Gateway, or none [{gateway}]: "),
            None => "Gateway (Enter for none): ".to_owned(),
        };
        let answer = self.ask(&prompt, |text| match text {
            "" => Ok(before),
            "none" => Ok(None),
            text => {
                let gateway = text
                    .parse()
                    .map_err(|_| Error::usage(format!("'{}' is not an address", text.escape_debug())))?;
                self.leads(ip, gateway).map(|()| Some(gateway))
            }
        })?;
        Ok(into(&mut answers.gateway, answer))
    }

    fn leads(&self, ip: Cidr, gateway: IpAddr) -> Result<()> {
        let quoted = |text: &dyn std::fmt::Display| quote_string(&text.to_string());
        self.valid(&[("ip", quoted(&ip)), ("gateway", quoted(&gateway))])
    }

    fn purpose(&self, answers: &mut Answers<'_>) -> Result<Put> {
        if answers.args.purpose.is_some() || !self.asks {
            return Ok(Put::Passed);
        }
        let answer =
            self.ask("What is it for? ", |text| Ok(Some(text.to_owned()).filter(|text| !text.is_empty())))?;
        Ok(into(&mut answers.purpose, answer))
    }
}

fn into<T>(value: &mut T, answer: Option<T>) -> Put {
    match answer {
        Some(answer) => {
            *value = answer;
            Put::Answered
        }
        None => Put::Back,
    }
}

/// What a question can be answered with.
trait Answer: Copy + std::fmt::Display + std::str::FromStr {
    /// Whether it is a whole number.
    const WHOLE: bool = true;
}

impl Answer for u32 {}
impl Answer for u64 {}
impl Answer for Vmid {}
impl Answer for DiskSize {
    const WHOLE: bool = false;
}

fn free(vmid: Vmid, definitions: &Definitions, cluster: Option<&Vec<Resource>>) -> Result<()> {
    let taken = |by: String| {
        let error = Error::conflict(format!("VMID {vmid} is taken by {by}")).now("nothing was changed");
        Err(match super::offered(definitions, None, cluster) {
            Ok(next) => error.hint(format!("the next that is free is {next}")),
            Err(_) => error,
        })
    };
    match definitions.by_vmid(vmid) {
        Some(Entry::Managed(vm)) => return taken(format!("managed.{}", vm.name)),
        Some(Entry::Imported(vm)) => return taken(format!("imported.{}", vm.name)),
        Some(Entry::Template(template)) => return taken(format!("the template '{}'", template.name)),
        None => {}
    }
    match cluster.into_iter().flatten().find(|resource| resource.vmid == vmid) {
        Some(there) => taken(format!("'{}' on node {}", there.name.as_deref().unwrap_or("-"), there.node)),
        None => Ok(()),
    }
}
