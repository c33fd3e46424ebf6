//! What may be said on the command line.

use crate::config::{Flags, Reloader, parse_duration};
use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use std::{net::IpAddr, path::PathBuf, time::Duration};

/// A load-protection proxy in front of etcd.
#[derive(Debug, Parser)]
#[command(name = "seawall", version, about, after_help = FIRST_STEPS, max_term_width = 100)]
#[command(long_about = "A load-protection proxy in front of etcd.

Clients of etcd, such as kube-apiserver, are pointed at Seawall and speak to it as they speak to etcd. \
It sends each call to the cluster that owns its keys. To take it out again, point the client back at \
etcd.")]
pub(super) struct Cli {
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Run the proxy until SIGTERM or SIGINT; SIGHUP reads the configuration again.
    #[command(after_help = RUN_EXAMPLES)]
    Run(Source),

    /// Validate a configuration and print what is in effect, with the origin of each value.
    #[command(after_help = CHECK_EXAMPLES)]
    Check(Source),

    /// Show where a key, a range or a request goes, what it costs, and what protections make of it.
    #[command(after_help = EXPLAIN_EXAMPLES)]
    Explain(Explain),

    /// Show who loads etcd, by prefix, client and kind of request, as it happens.
    #[command(after_help = TOP_EXAMPLES)]
    Top(Top),

    /// Print the version.
    Version {
        /// Print it as JSON.
        #[arg(long)]
        json: bool,
    },

    /// Print a script that completes commands and flags in a shell.
    #[command(after_help = COMPLETION_EXAMPLES)]
    Completion {
        /// The shell to complete in.
        shell: Shell,
    },

    /// Write the man pages of all commands into a directory.
    Man {
        /// The directory, which has to be there.
        directory: PathBuf,
    },

    /// Print the JSON schema of the configuration file, which editors understand.
    #[command(after_help = SCHEMA_EXAMPLES)]
    Schema,
}

/// The configuration: a file, flags, or flags laid over a file.
#[derive(Debug, Args)]
pub(super) struct Source {
    /// The configuration file (YAML).
    ///
    /// Flags are laid over it. Those that speak of a listener or a cluster are refused where the file
    /// has several of them.
    #[arg(long, short, value_name = "FILE")]
    config: Option<PathBuf>,

    #[command(flatten)]
    flags: Flags,
}

impl Source {
    pub(super) fn reloader(&self) -> Reloader {
        Reloader::new(self.config.clone(), self.flags.clone())
    }
}

#[derive(Debug, Args)]
pub(super) struct Explain {
    #[command(flatten)]
    pub(super) what: What,

    /// Who asks: the name in a certificate. Without one a client goes by its address.
    #[arg(long, value_name = "NAME", help_heading = "Request")]
    pub(super) client: Option<String>,

    /// Where the client connects from.
    ///
    /// 127.0.0.1 if it is not given. Of requests from a file, --client and --address are those of the
    /// ones that say none themselves.
    #[arg(long, value_name = "IP", help_heading = "Request")]
    pub(super) address: Option<IpAddr>,

    #[command(flatten)]
    pub(super) source: Source,
}

/// What is to be explained.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(super) struct What {
    /// A key; explained as a read of it.
    #[arg(long, value_name = "KEY", help_heading = "Request")]
    pub(super) key: Option<String>,

    /// All keys that begin with PREFIX.
    #[arg(long, value_name = "PREFIX", help_heading = "Request")]
    pub(super) prefix: Option<String>,

    /// The keys from KEY on and before END.
    #[arg(long, num_args = 2, value_names = ["KEY", "END"], help_heading = "Request")]
    pub(super) range: Option<Vec<String>>,

    /// A file of requests: a YAML list, or JSON, one object a line.
    ///
    /// Keys: method (range, range_stream, put, delete_range, txn, watch; default range), key,
    /// range_end or prefix, limit, revision, count_only, keys_only, sort_order (none, ascend,
    /// descend), client, address, and for a txn the lists compare, success and failure of requests.
    /// A compare with a mod_revision makes a txn what kube-apiserver sends: a create with 0.
    #[arg(long, value_name = "FILE", help_heading = "Request")]
    pub(super) requests: Option<PathBuf>,

    /// What a running Seawall has recorded (--record): which of its calls each rule would have made
    /// wait or refused, at their times.
    #[arg(long, value_name = "FILE", help_heading = "Request")]
    pub(super) trace: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct Top {
    /// The admin port of a running Seawall, http or https.
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:23791")]
    pub(super) admin: String,

    /// PEM file with the authorities that sign the admin port's certificate.
    ///
    /// Default: those of the system.
    #[arg(long, value_name = "FILE")]
    pub(super) ca: Option<PathBuf>,

    /// PEM file with the client certificate shown to the admin port.
    #[arg(long, value_name = "FILE", requires = "key")]
    pub(super) cert: Option<PathBuf>,

    /// PEM file with the key of --cert.
    #[arg(long, value_name = "FILE", requires = "cert")]
    pub(super) key: Option<PathBuf>,

    /// File with the token that switching protections asks for, where it does.
    #[arg(long, value_name = "FILE")]
    pub(super) token_file: Option<PathBuf>,

    /// How often it is asked.
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = parse_duration)]
    pub(super) interval: Duration,

    /// Print the tables once, as text. So it is anyway where the output is not a terminal.
    #[arg(long)]
    pub(super) once: bool,

    /// How far back the tables reach.
    #[arg(long, value_enum, default_value_t = Window::Minute)]
    pub(super) window: Window,

    /// What comes first.
    #[arg(long, value_enum, default_value_t = By::Cost)]
    pub(super) by: By,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Window {
    Minute,
    Hour,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum By {
    /// What calls have cost etcd.
    Cost,
    Requests,
    /// Of requests and answers.
    Bytes,
}

const FIRST_STEPS: &str = "\
First steps, in front of an etcd on this machine:
  seawall run --upstream http://127.0.0.1:2379
  etcdctl --endpoints 127.0.0.1:23790 get / --prefix --keys-only --limit 5
  seawall top, or http://127.0.0.1:23791/ in a browser

Exit codes:
  0  everything is well
  1  failed while running
  2  wrong usage or configuration

`seawall <command> --help` explains each flag and gives examples.";

const RUN_EXAMPLES: &str = "\
Examples:
  One cluster, plaintext on 127.0.0.1:23790:
    seawall run --upstream http://127.0.0.1:2379

  Events of Kubernetes on a cluster of their own:
    seawall run --upstream https://10.0.0.11:2379,https://10.0.0.12:2379,https://10.0.0.13:2379 \\
      --upstream-cacert ca.crt --upstream-cert client.crt --upstream-key client.key \\
      --cert-file server.crt --key-file server.key --trusted-ca-file ca.crt \\
      --route /registry/events=https://10.0.0.21:2379

  From a file:
    seawall run --config /etc/seawall/seawall.yaml

Exit codes: 0 stopped by a signal, 1 failed while running, 2 wrong usage or configuration.";

const CHECK_EXAMPLES: &str = "\
Certificates are read as well: files that are missing, keys that do not belong to their certificate, and \
certificates that have expired are problems; those that expire within 14 days are warnings.

Examples:
  Everything that is wrong with a file:
    seawall check --config seawall.yaml

  The file that says the same as some flags:
    seawall check --upstream http://127.0.0.1:2379 >seawall.yaml

Exit codes: 0 sound, 1 the output could not be written, 2 something is wrong.";

const EXPLAIN_EXAMPLES: &str = "\
Examples:
  Which cluster holds a key:
    seawall explain --config seawall.yaml --key /registry/events/default/pod.17

  Whether a list lies in one cluster:
    seawall explain --config seawall.yaml --prefix /registry/events/

  What the rules make of a client's lists:
    seawall explain --config seawall.yaml --prefix /registry/pods/ --client inventory

  What rules would have done to the calls of an hour:
    seawall explain --config stricter.yaml --trace trace.jsonl

  Requests from a file:
    echo '{\"method\": \"watch\", \"prefix\": \"/registry/pods/\"}' >requests.jsonl
    seawall explain --config seawall.yaml --requests requests.jsonl

Exit codes: 0 explained, 1 the output could not be written, 2 wrong usage or configuration.";

const TOP_EXAMPLES: &str = "\
Keys: Tab changes the table; Enter goes from a prefix to its clients and from a client to its requests, \
and switches a protection; Esc goes back; c, r and b sort by cost, requests and bytes; w changes \
between the last minute and the last hour; ? shows all keys; q quits.

Examples:
  Who loads etcd now:
    seawall top

  What has moved most bytes in the last hour, as text:
    seawall top --admin http://10.0.0.5:23791 --window hour --by bytes --once

  Over TLS, with the token that switches protections:
    seawall top --admin https://10.0.0.5:23791 --ca ca.crt --token-file admin.token

Exit codes: 0 ended by the user, 1 the admin port cannot be reached (with --once), 2 wrong usage.";

const COMPLETION_EXAMPLES: &str = "\
Examples:
  bash:  source <(seawall completion bash)
  zsh:   seawall completion zsh >\"${fpath[1]}/_seawall\"
  fish:  seawall completion fish >~/.config/fish/completions/seawall.fish";

const SCHEMA_EXAMPLES: &str = "\
Examples:
  seawall schema >schema.json
  and on top of seawall.yaml:  # yaml-language-server: $schema=schema.json";
