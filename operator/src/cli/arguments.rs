//! The verbs and their arguments.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Declarative backups: commit YAML, and a reconcile loop makes it true.
#[derive(Debug, Parser)]
#[command(
    name = "holdfast",
    version,
    about,
    max_term_width = 100,
    propagate_version = true
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
    /// Where things are and how much is said.
    #[command(flatten)]
    pub global: GlobalArgs,
}

/// Arguments that every verb takes.
#[derive(Debug, Clone, Args)]
pub struct GlobalArgs {
    /// Directory of the embedded state database [default: the XDG state directory].
    #[arg(long, global = true, env = "HOLDFAST_STATE_DIR", value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// Directory that holds DIR/<secret name>/<key> for every secretKeyRef.
    #[arg(long, global = true, env = "HOLDFAST_SECRETS_DIR", value_name = "DIR")]
    pub secrets_dir: Option<PathBuf>,
    /// More log lines: once for debug, twice for trace.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// How log lines are written to standard error.
    #[arg(
        long,
        global = true,
        env = "HOLDFAST_LOG_FORMAT",
        default_value = "auto"
    )]
    pub log_format: LogFormat,
}

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Text on a terminal, JSON elsewhere.
    Auto,
    /// One line of text each.
    Text,
    /// One JSON object each.
    Json,
}

/// How a result is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Default)]
pub enum OutputFormat {
    /// For a person.
    #[default]
    Table,
    /// The resources themselves, as kubectl would print them.
    Json,
    /// The same in YAML.
    Yaml,
}

/// Which files declare the resources, for verbs that are asked for one thing.
#[derive(Debug, Clone, Args)]
pub struct FileArgs {
    /// File or directory of manifests; may be given several times.
    #[arg(
        short = 'f',
        long = "file",
        env = "HOLDFAST_FILES",
        value_name = "PATH",
        default_value = ".",
        value_delimiter = ','
    )]
    pub files: Vec<PathBuf>,
    /// What a cluster declares, instead of files: the one that kubectl speaks to.
    #[arg(long)]
    pub kubernetes: bool,
    /// Namespace of the objects named on the command line [default: default, or with --kubernetes
    /// that of the context].
    #[arg(short, long)]
    pub namespace: Option<String>,
}

/// How a result is printed.
#[derive(Debug, Clone, Copy, Args)]
pub struct OutputArgs {
    /// How the result is printed.
    #[arg(short, long, default_value = "table")]
    pub output: OutputFormat,
}

/// What can be asked.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Reconcile plain files, watching them.
    Run(RunArgs),
    /// Print what the next pass would do, and when; change nothing.
    Plan(PlanArgs),
    /// Print every error of the files at once, with file:line:column; contact nothing.
    Validate(ValidateArgs),
    /// Back a policy up now.
    Backup(BackupArgs),
    /// List restore points.
    Backups(BackupsArgs),
    /// Restore a backup.
    Restore(RestoreArgs),
    /// Delete a backup.
    Delete(DeleteArgs),
    /// Write a backup out: in mongodump's form, or as the files it holds.
    Export(ExportArgs),
    /// Check a destination's repository.
    Check(CheckArgs),
    /// List runs, failed ones too.
    History(HistoryArgs),
    /// Reconcile a cluster.
    Operator(super::operator::OperatorArgs),
    /// Do the work of one Job of a cluster; the operator starts it.
    #[command(hide = true)]
    Worker,
    /// Print the schema of the resources.
    Schema(SchemaArgs),
    /// Print a completion script for a shell.
    Completions(CompletionsArgs),
}

/// Arguments of `run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// Files or directories of manifests.
    #[arg(required = true, value_name = "PATH")]
    pub paths: Vec<PathBuf>,
    /// Converge, do what is due, exit: 1 if anything failed.
    #[arg(long)]
    pub once: bool,
    /// Address that serves /metrics, /healthz and /readyz.
    #[arg(long, env = "HOLDFAST_LISTEN", value_name = "ADDRESS")]
    pub listen: Option<SocketAddr>,
    /// How many runs go on side by side.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub max_concurrent_runs: u32,
    /// How the result of --once is printed.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// Arguments of `plan`.
#[derive(Debug, Args)]
pub struct PlanArgs {
    /// Files or directories of manifests.
    #[arg(required = true, value_name = "PATH")]
    pub paths: Vec<PathBuf>,
    /// How the plan is printed.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// Arguments of `validate`.
#[derive(Debug, Args)]
pub struct ValidateArgs {
    /// Files or directories of manifests.
    #[arg(required = true, value_name = "PATH")]
    pub paths: Vec<PathBuf>,
    /// How the errors are printed.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// Arguments of `backup`.
#[derive(Debug, Args)]
pub struct BackupArgs {
    /// The policy: NAME or NAMESPACE/NAME.
    pub policy: String,
    /// A tag for this backup, beside those of the policy; may be given several times.
    #[arg(long, value_name = "TAG")]
    pub tag: Vec<String>,
    /// Which files declare it.
    #[command(flatten)]
    pub files: FileArgs,
    /// How the backup is printed.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// Arguments of `backups`.
#[derive(Debug, Args)]
pub struct BackupsArgs {
    /// Only backups of this policy: NAME or NAMESPACE/NAME.
    #[arg(long, value_name = "POLICY")]
    pub policy: Option<String>,
    /// Only backups at this destination: NAME or NAMESPACE/NAME.
    #[arg(long, value_name = "DESTINATION")]
    pub destination: Option<String>,
    /// Also list snapshots that others put into the repositories.
    #[arg(long)]
    pub foreign: bool,
    /// Which files declare the destinations.
    #[command(flatten)]
    pub files: FileArgs,
    /// How the list is printed.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// What happens to what is there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "PascalCase")]
pub enum OnConflictArg {
    /// Refuse before anything is written.
    #[value(alias = "fail")]
    Fail,
    /// Drop it first.
    #[value(alias = "drop")]
    Drop,
    /// Keep it and add what is not there.
    #[value(alias = "merge")]
    Merge,
}

impl From<OnConflictArg> for holdfast_crds::OnConflict {
    fn from(argument: OnConflictArg) -> Self {
        match argument {
            OnConflictArg::Fail => Self::Fail,
            OnConflictArg::Drop => Self::Drop,
            OnConflictArg::Merge => Self::Merge,
        }
    }
}

/// Arguments of `restore`.
#[derive(Debug, Args)]
pub struct RestoreArgs {
    /// A backup's id or the beginning of it, or `latest` with --policy.
    pub backup: String,
    /// The policy whose backup it is: NAME or NAMESPACE/NAME.
    #[arg(long, value_name = "POLICY")]
    pub policy: Option<String>,
    /// The destination to read from [default: the first that holds the backup].
    #[arg(long, value_name = "DESTINATION")]
    pub destination: Option<String>,
    /// Only these namespaces (or paths, for files), with * and ?; may be given several times.
    #[arg(long, value_name = "NS")]
    pub include: Vec<String>,
    /// Restore a namespace under another name: 'shop.*=shop_copy.*'; may be given several times.
    #[arg(long, value_name = "A=B")]
    pub rename: Vec<String>,
    /// Restore to the MongoDB whose URI this file holds [default: where the policy reads].
    #[arg(long, value_name = "FILE", conflicts_with = "to_path")]
    pub to_mongodb_uri_file: Option<PathBuf>,
    /// Restore files below this directory [default: where the policy reads].
    #[arg(long, value_name = "DIR")]
    pub to_path: Option<PathBuf>,
    /// What happens to what is there already.
    #[arg(long, value_name = "WHAT", default_value = "Fail", ignore_case = true)]
    pub on_conflict: OnConflictArg,
    /// Print what would be done and change nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// Which files declare the policy and the destinations.
    #[command(flatten)]
    pub files: FileArgs,
    /// How the result is printed.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// Arguments of `delete`.
#[derive(Debug, Args)]
pub struct DeleteArgs {
    /// A backup's id, or the beginning of it.
    pub backup: String,
    /// Do not ask.
    #[arg(long, short = 'y')]
    pub yes: bool,
    /// Only at this destination [default: wherever the backup is].
    #[arg(long, value_name = "DESTINATION")]
    pub destination: Option<String>,
    /// Which files declare the destinations.
    #[command(flatten)]
    pub files: FileArgs,
    /// How the result is printed.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// Arguments of `export`.
#[derive(Debug, Args)]
#[group(id = "where", required = true, multiple = false, args = ["dir", "archive"])]
pub struct ExportArgs {
    /// A backup's id or the beginning of it, or `latest` with --policy.
    pub backup: String,
    /// The policy whose backup it is: NAME or NAMESPACE/NAME.
    #[arg(long, value_name = "POLICY")]
    pub policy: Option<String>,
    /// The destination to read from [default: the first that holds the backup].
    #[arg(long, value_name = "DESTINATION")]
    pub destination: Option<String>,
    /// Write the files of the backup (mongodump's directory, for MongoDB) into this directory,
    /// which is made or must be empty.
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Write a mongodump archive to this file, or to standard output with `-`: a MongoDB's only.
    #[arg(long, value_name = "FILE")]
    pub archive: Option<PathBuf>,
    /// Which files declare the destinations.
    #[command(flatten)]
    pub files: FileArgs,
    /// How the result is printed.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// Arguments of `check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// The destination: NAME or NAMESPACE/NAME.
    pub destination: String,
    /// How much of the data is read back and verified: `5%`, `100%`, or `n/t` for a part.
    #[arg(long, value_name = "PART")]
    pub read_data: Option<String>,
    /// Which files declare it.
    #[command(flatten)]
    pub files: FileArgs,
    /// How the result is printed.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// Arguments of `history`.
#[derive(Debug, Args)]
pub struct HistoryArgs {
    /// Only runs of this policy: NAME or NAMESPACE/NAME.
    #[arg(long, value_name = "POLICY")]
    pub policy: Option<String>,
    /// Only runs that failed.
    #[arg(long)]
    pub failed: bool,
    /// How many of the newest runs.
    #[arg(long, default_value_t = 50)]
    pub limit: usize,
    /// The runs of a cluster's Jobs, instead of those of this machine.
    #[arg(long)]
    pub kubernetes: bool,
    /// Namespace of the policy named on the command line [default: default, or with --kubernetes
    /// that of the context].
    #[arg(short, long)]
    pub namespace: Option<String>,
    /// Accepted so that the same options go with every verb; the history needs no files.
    #[arg(
        short = 'f',
        long = "file",
        env = "HOLDFAST_FILES",
        value_name = "PATH",
        hide = true
    )]
    pub files: Vec<PathBuf>,
    /// How the list is printed.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// Arguments of `schema`.
#[derive(Debug, Args)]
#[group(id = "which", required = true, multiple = false, args = ["crd", "json"])]
pub struct SchemaArgs {
    /// The CustomResourceDefinitions, as `kubectl apply -f -` takes them.
    #[arg(long)]
    pub crd: bool,
    /// A JSON Schema for editors.
    #[arg(long)]
    pub json: bool,
    /// How it is printed [default: CRDs as YAML, the schema for editors as JSON].
    #[command(flatten)]
    pub output: OutputArgs,
}

/// Arguments of `completions`.
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// The shell.
    pub shell: clap_complete::Shell,
}
