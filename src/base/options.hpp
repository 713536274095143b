// The options: plain structs, and the one table that names them.
//
// From the table (`for_each_option`) come the --train.batch flag, the `[train]` / `batch = 64` line
// of a configuration file, --help, --print-config, the config.ini saved with each run, and the axes
// of a study. Precedence: default < file < command line. Defaults live in these structs and nowhere
// else. Modules take their own struct (`const NormOptions&`) and never see the parser.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "base/error.hpp"
#include "base/options_table.hpp"
#include "base/random.hpp"
#include "base/sharding.hpp"

namespace syncbn {

struct DataOptions {
  std::string name = "mnist";       // mnist | fashion-mnist | synthetic | idx
  std::string dir;                  // empty: $SYNCBN_MNIST_DIR, else data/<name>
  int64_t classes = 0;              // 0: 10, or for idx as many as the labels tell
  int64_t label_offset = 0;         // the label of the first class
  int64_t limit = 0;                // 0: all
  std::string scale = "unit";       // unit | half | standard | binary
  std::string augment = "none";     // none | crop | crop-flip
  std::string validation = "test";  // test | a fraction in (0, 1)
};

struct ModelOptions {
  std::string hidden = "128,64";    // sizes of the hidden layers; empty: none
  std::string activation = "relu";  // relu | sigmoid | tanh
  std::string init = "torch";       // torch | he | glorot | normal
  double init_std = 0.01;           // for init = normal
  double dropout = 0;               // probability of zeroing
  std::string weights;              // file that the run begins with; empty: init
};

struct NormOptions {
  std::string kind = "batch";                 // none | batch | layer
  std::string batch = "global";               // M: global | local | a number of samples
  std::string position = "pre";               // pre | post (of the activation)
  bool output = false;                        // also normalise the output layer
  std::string eval = "running";               // running | recomputed | batch
  double momentum = 0.1;                      // weight of the new batch, as in PyTorch
  bool cumulative = false;                    // plain average over all steps instead
  std::string running_variance = "unbiased";  // unbiased (PyTorch) | biased (Keras)
  double eps = 1e-5;
};

struct TrainOptions {
  int64_t batch = 128;         // B
  int64_t batch_per_rank = 0;  // above 0, instead of batch: B = this × ranks
  int64_t epochs = 5;
  int64_t max_steps = -1;          // −1: no limit; 0: no training
  std::string optimizer = "adam";  // sgd | adam | adamw
  double lr = 1e-3;
  std::string lr_rule = "none";  // none | linear | sqrt
  int64_t lr_reference = 128;    // the batch for which lr is stated
  int64_t warmup_steps = 0;
  std::string schedule = "constant";  // constant | step | cosine
  std::string milestones;             // epochs, for schedule = step: "10,20"
  double gamma = 0.1;                 // factor at each milestone
  double momentum = 0.9;              // sgd
  bool nesterov = false;              // sgd
  double beta1 = 0.9, beta2 = 0.999, adam_eps = 1e-8;
  double weight_decay = 0;
  std::string decay = "all";  // all | weights: what weight_decay acts on
  double clip = 0;            // largest gradient norm; 0: off
  bool drop_last = false;
};

/// Seeds of single random streams; −1: run.seed (of `grouping`: see its help).
struct SeedOptions {
  int64_t init = -1, order = -1, noise = -1, split = -1, grouping = -1;
};

struct RunOptions {
  int64_t seed = 1;
  std::string out;                   // empty: runs/<config>-<time>
  std::string device = "auto";       // auto | cpu | cuda
  std::string backend = "auto";      // auto | mpi | nccl
  std::string dtype = "float32";     // float32 | float64
  std::string reduce = "canonical";  // canonical | fast
  int64_t shards = 16;               // V, for reduce = canonical
  int64_t threads = 0;               // per rank; 0: from the cores
  int64_t checkpoint_steps = 0;      // 0: not by steps
  double checkpoint_minutes = 10;    // 0: not by time
  int64_t keep_checkpoints = 2;
  bool keep_best = false;       // the best epoch's model, by validation
  std::string check = "light";  // light | full: how often collectives are compared
  int64_t check_steps = 1000;   // 0: before saves and after epochs only
  double timeout = 60;          // seconds without progress; 0: no watchdog
};

struct Options {
  DataOptions data;
  ModelOptions model;
  NormOptions norm;
  TrainOptions train;
  SeedOptions seed;
  RunOptions run;

  /// Keys that were given a value by a file, a command line or a sweep.
  std::set<std::string> set_keys;
  /// Of these, the ones whose value came from a file, and where: "mnist.ini: line 3". Decides
  /// between exit code 78 and 64.
  std::map<std::string, std::string> from_file;
};

/// Calls f("train.batch", field, "help") for each option, in the order of --help.
template <class O, class F, OnlyFor<O, Options> = 0>
void for_each_option(O& o, F&& f) {
  f("data.name", o.data.name,
    "data set: mnist | fashion-mnist | synthetic | idx (any four IDX files, in data.dir)");
  f("data.dir", o.data.dir, "folder of the four IDX files [$SYNCBN_MNIST_DIR, else data/<name>]");
  f("data.classes", o.data.classes,
    "number of classes (0: 10, or for idx as many as the labels tell)");
  f("data.label_offset", o.data.label_offset, "label of the first class (EMNIST letters: 1)");
  f("data.limit", o.data.limit, "use the first n training samples only (0: all)");
  f("data.scale", o.data.scale,
    "pixel scaling: unit (x/255) | half ((x/255-0.5)/0.5) | standard (the set's mean and "
    "deviation) | "
    "binary (1 where x/255 > 0.5, else 0)");
  f("data.augment", o.data.augment,
    "what is trained on: none (the images as they are) | crop (moved by up to 2 pixels) | "
    "crop-flip (and mirrored with probability 1/2)");
  f("data.validation", o.data.validation,
    "what is validated on: test, or a fraction of the training set (chosen by the seed)");
  f("model.hidden", o.model.hidden, "sizes of the hidden layers, with commas");
  f("model.activation", o.model.activation, "relu | sigmoid | tanh");
  f("model.init", o.model.init,
    "initial weights: torch (PyTorch's Linear) | he | glorot | normal (model.init_std)");
  f("model.init_std", o.model.init_std, "standard deviation of model.init = normal");
  f("model.dropout", o.model.dropout, "probability of dropping a hidden unit (0: off)");
  f("model.weights", o.model.weights,
    "begin with the weights of this file: a run's model or checkpoint, or a state_dict that "
    "PyTorch saved as safetensors (with train.max_steps = 0: only evaluate them)");
  f("norm.kind", o.norm.kind, "normalization: none | batch | layer");
  f("norm.batch", o.norm.batch,
    "M, samples behind one mean and variance: global (= train.batch) | local (a shard's; with "
    "run.reduce = fast a rank's) | a "
    "number");
  f("norm.position", o.norm.position, "pre | post: before or after the activation");
  f("norm.output", o.norm.output, "normalise the output layer too: true | false");
  f("norm.momentum", o.norm.momentum, "weight of the new batch in the running statistics");
  f("norm.cumulative", o.norm.cumulative,
    "running statistics as a plain average over all steps instead: true | false");
  f("norm.running_variance", o.norm.running_variance,
    "running variance: unbiased (PyTorch) | biased (Keras)");
  f("norm.eps", o.norm.eps, "added to the variance");
  f("norm.eval", o.norm.eval,
    "statistics at evaluation: running | recomputed (over the training set) | batch");
  f("train.batch", o.train.batch, "B, samples per step over all ranks");
  f("train.batch_per_rank", o.train.batch_per_rank,
    "instead of train.batch: B = this times the ranks");
  f("train.epochs", o.train.epochs, "passes over the training set");
  f("train.max_steps", o.train.max_steps,
    "stop after this many steps (-1: no limit; 0: only write the initial weights, or evaluate "
    "those of model.weights)");
  f("train.optimizer", o.train.optimizer, "sgd | adam | adamw");
  f("train.lr", o.train.lr, "learning rate, stated for train.lr_reference when a rule is set");
  f("train.lr_rule", o.train.lr_rule, "scale the learning rate with B: none | linear | sqrt");
  f("train.lr_reference", o.train.lr_reference, "the batch that train.lr is stated for");
  f("train.warmup_steps", o.train.warmup_steps, "steps of linear warm-up");
  f("train.schedule", o.train.schedule, "constant | step (train.milestones) | cosine (to 0)");
  f("train.milestones", o.train.milestones,
    "epochs at which the rate is multiplied by train.gamma");
  f("train.gamma", o.train.gamma, "factor of schedule = step");
  f("train.momentum", o.train.momentum, "momentum of sgd");
  f("train.nesterov", o.train.nesterov, "Nesterov's momentum for sgd: true | false");
  f("train.beta1", o.train.beta1, "Adam's decay of the gradient average");
  f("train.beta2", o.train.beta2, "Adam's decay of the squared-gradient average");
  f("train.adam_eps", o.train.adam_eps, "Adam's epsilon");
  f("train.weight_decay", o.train.weight_decay,
    "L2 penalty (sgd, adam) or decoupled decay (adamw), of what train.decay names");
  f("train.decay", o.train.decay,
    "what train.weight_decay acts on: all parameters | weights (not biases and norm parameters)");
  f("train.clip", o.train.clip, "largest norm of the gradient; longer ones are scaled (0: off)");
  f("train.drop_last", o.train.drop_last, "drop the short last batch of an epoch: true | false");
  f("seed.init", o.seed.init, "seed of the initial weights (-1: run.seed)");
  f("seed.order", o.seed.order, "seed of the order of samples (-1: run.seed)");
  f("seed.noise", o.seed.noise, "seed of dropout's masks and of data.augment (-1: run.seed)");
  f("seed.split", o.seed.split, "seed of data.validation's fraction (-1: run.seed)");
  f("seed.grouping", o.seed.grouping,
    "seed by which each batch's samples are dealt to the groups of norm.batch anew (-1: groups are "
    "consecutive samples)");
  f("run.seed", o.run.seed, "seed of weights, order, dropout, splits and synthetic data");
  f("run.out", o.run.out, "the run's folder [runs/<config>-<time>]");
  f("run.device", o.run.device, "auto | cpu | cuda");
  f("run.backend", o.run.backend, "auto | mpi | nccl");
  f("run.dtype", o.run.dtype, "float32 | float64");
  f("run.reduce", o.run.reduce,
    "order of sums: canonical (the same bits on any number of ranks) | fast");
  f("run.shards", o.run.shards,
    "canonical: parts of a batch whose sums have a fixed order; a part of the result, and the most "
    "ranks");
  f("run.threads", o.run.threads, "CPU threads per rank (0: the cores it may use)");
  f("run.checkpoint_steps", o.run.checkpoint_steps,
    "write a checkpoint every so many steps (0: not by steps); one is written at the end");
  f("run.checkpoint_minutes", o.run.checkpoint_minutes,
    "write a checkpoint every so many minutes (0: not by time)");
  f("run.keep_checkpoints", o.run.keep_checkpoints, "how many of the last checkpoints are kept");
  f("run.keep_best", o.run.keep_best,
    "keep the model of the epoch with the best validation accuracy as best.safetensors: true | "
    "false");
  f("run.check", o.run.check,
    "whether ranks call the same collectives: light (a running hash, every run.check_steps) | full "
    "(each, before data move; slower)");
  f("run.check_steps", o.run.check_steps,
    "compare the ranks' models every so many steps (0: after epochs and before saves only)");
  f("run.timeout", o.run.timeout,
    "seconds without progress after which a rank ends the job (0: never)");
}

/// Sets one option from text. `where` names the place in a file that it comes from ("mnist.ini:
/// line 3"); empty: not from a file. Throws UsageError (78 if from a file, else 64): an unknown key
/// (with the nearest known one), a value that is not of the key's type or not finite. Ranges are
/// checked by `validate`.
void set_option(Options& options, const std::string& key, const std::string& value,
                const std::string& where = "");

/// One option's value as `to_ini` writes it. Throws UsageError on an unknown key.
std::string get_option(const Options& options, const std::string& key);

/// The options as an INI text that parses back to equal options; numbers in the fewest digits that
/// do.
std::string to_ini(const Options& options);

/// Checks every value's range and how they go together; needs no rank count and no data.
/// Throws UsageError: key, value, expected, code 78 if the value came from the file, else 64.
void validate(const Options& options);

/// Whether config.ini gives this text back unchanged as a path, as `validate` asks of data.dir;
/// false for an empty one.
bool is_storable_path(const std::string& path);

/// The most classes that data.classes, or a set's labels, may ask for.
constexpr int64_t kMostClasses = int64_t{1} << 16;

/// Checks what depends on the data: that there are at most 2^30 weights. Throws UsageError as
/// `validate` does.
void validate_for_data(const Options& options, int64_t inputs, int64_t classes);

/// Checks what depends on the rank count: that B is at most 2^30, that the scaled rate is finite,
/// that M (norm.kind = batch) is from 2 to B and divides B if it is a number; and that
/// run.keep_best does not choose by the test set. Ranks need not divide B. Throws UsageError as
/// `validate` does, naming the nearest M that would do.
void validate_for_ranks(const Options& options, int ranks);

/// How batches are cut into shards and shards dealt to ranks; ranks ≤ run.shards if canonical.
Sharding make_sharding(const RunOptions& options, int rank, int ranks);

/// The seed of one random stream: its own in [seed] where that has one and it is set, else
/// run.seed.
uint64_t seed_of(const Options& options, Stream stream);

/// B for `ranks` ranks: train.batch, or batch_per_rank × ranks.
int64_t global_batch(const TrainOptions& options, int ranks);

/// train.lr after its rule for the global batch B: lr · f(B / lr_reference) with f(x) = 1 (none),
/// x (linear: Goyal et al., 2017, section 2.1), √x (sqrt: Krizhevsky, 2014, section 5; Hoffer et
/// al., 2017, section 4).
double scaled_rate(const TrainOptions& options, int64_t batch);

/// M if norm.batch is a number; nothing for global and local (or what `validate` refuses).
std::optional<int64_t> norm_batch_number(const NormOptions& options);

/// The fraction of the training set that data.validation names; nothing for test (or what
/// `validate` refuses).
std::optional<double> validation_fraction(const DataOptions& options);

/// The key that B comes from: train.batch or train.batch_per_rank.
std::string batch_key(const TrainOptions& options);

/// UsageError about `key`, with code 78 if its value came from the file, else 64. Where its value
/// does not go with those of `others`, the first of all these that the command line set is named
/// as the cause (64), or else the first that the file set (78).
UsageError option_error(const Options& options, const std::string& key, const std::string& message,
                        const std::vector<std::string>& others = {});

/// "128,64" → {128, 64}; "" → {}. Throws UsageError naming `key` unless all are whole numbers from
/// 1 to 2^20.
std::vector<int64_t> parse_sizes(const std::string& key, const std::string& text);

/// What the command line asked for besides options; for_each_flag names the flags.
struct CommandLine {
  std::string words;   ///< as typed, with the program's name, for the record
  std::string config;  ///< path of the configuration file; empty: none
  bool help = false, version = false, print_config = false, dry_run = false, overwrite = false;
  bool resume = false, self_check = false;
  std::vector<std::pair<std::string, std::string>> settings;  ///< --key value, in order
};

/// Calls f("overwrite", field, "help") for each flag, in the order of --help.
template <class Line, class F>
void for_each_flag(Line& line, F&& f) {
  f("overwrite", line.overwrite, "replace the results in an existing run.out");
  f("resume", line.resume, "go on from the newest checkpoint in run.out, on any number of ranks");
  f("print-config", line.print_config,
    "print every option's value as a configuration file, and stop");
  f("self-check", line.self_check,
    "test here that the bits do not depend on the number of ranks, and stop");
  f("dry-run", line.dry_run, "load and check everything, print the plan of the run, and stop");
  f("help", line.help, "print this text, and stop (-h too)");
  f("version", line.version, "print the versions, and stop");
}

/// What a program's command line may hold.
struct ProgramOptions {
  std::string name, example;        ///< "syncbn-train", and a configuration file for --help
  std::set<std::string> flags;      ///< of for_each_flag
  std::vector<OptionHelp> options;  ///< section by section
  /// Beginnings of options that people look for here, and what to do instead.
  std::vector<std::pair<std::string, std::string>> elsewhere;
  std::string notes;  ///< the end of --help
};
ProgramOptions train_program();

/// Parses a program's arguments, `--key value` or `--key=value` (no file is read). Throws
/// UsageError (64): unknown or doubled options with the nearest known one, stray words (saying what
/// to type instead), missing values, --resume with --overwrite. Names are never abbreviated. With
/// -h or --help nothing else is looked at.
CommandLine parse_command_line(int argc, const char* const* argv,
                               const ProgramOptions& program = train_program());

/// Options from the text of a configuration file (its name is used in messages) and the settings of
/// the command line, which win; validated. train.batch and train.batch_per_rank say one thing in
/// two ways: the command line's replaces the file's, both in one place are an error. Throws
/// UsageError: 78 for the file (with line number, unknown sections, unknown and doubled keys, '#'
/// inside a value), 64 for the command line.
Options parse_options(const CommandLine& line, const std::string& config_text,
                      const std::string& config_name);

/// Reads a configuration file whole; never waits (a pipe is refused). Throws Error: 66 missing, not
/// a regular file, unreadable; 78 larger than 1 MiB or not text.
std::string read_config(const std::string& path);

/// --help, grouped by section, with the default values.
std::string help_text(const ProgramOptions& program);

/// Version of the Boost that parses options: "1.74".
std::string parser_library_version();

}  // namespace syncbn
