/* options.c: the command line: options before FILE by getopt_long; after FILE the same long options, and every other
 * --name is a field of the experiment. The values of fields are text; the option that takes one converts and checks
 * it. */
#include <errno.h>
#include <getopt.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include "host.h"

enum {
  O_THREADS = 256,
  O_DEVICE,
  O_DEVICES,
  O_RESTARTS,
  O_OUT,
  O_SEED,
  O_TRACE,
  O_PROFILE,
  O_SMOKE,
  O_RESUME,
  O_OVERWRITE,
  O_QUIET,
  O_VERBOSE,
  O_HELP,
  O_VERSION
};

static const struct option known[] = {
  { "threads",   required_argument, NULL, O_THREADS },
  { "device",    required_argument, NULL, O_DEVICE },
  { "devices",   required_argument, NULL, O_DEVICES },
  { "restarts",  required_argument, NULL, O_RESTARTS },
  { "out",       required_argument, NULL, O_OUT },
  { "seed",      required_argument, NULL, O_SEED },
  { "trace",     no_argument,       NULL, O_TRACE },
  { "profile",   no_argument,       NULL, O_PROFILE },
  { "smoke",     no_argument,       NULL, O_SMOKE },
  { "resume",    no_argument,       NULL, O_RESUME },
  { "overwrite", no_argument,       NULL, O_OVERWRITE },
  { "quiet",     no_argument,       NULL, O_QUIET },
  { "verbose",   no_argument,       NULL, O_VERBOSE },
  { "help",      no_argument,       NULL, O_HELP },
  { "version",   no_argument,       NULL, O_VERSION },
  { NULL, 0, NULL, 0 }
};

void options_help(void) {
  puts(
    "usage: medxai-run [options] FILE [--field value ...]\n"
    "       medxai-run runs [list | show RUN | compare RUN RUN ... | export]    what lies in runs/; see runs --help\n"
    "       medxai-run models | methods | metrics | datasets    what there is, one line each with its options\n"
    "       medxai-run slurm [options] FILE [--field value ...]        submits it; see medxai-run slurm --help\n"
    "       medxai-run help [NAME]    what an experiment can name, and the options of one: help fit, help gradcam\n"
    "Runs an experiment, a Lua 5.4 file, over libtorch. --field value sets that field of the experiment (--epochs 2 "
    "--data DIR).\n"
    "\n"
    "  -e CODE         run CODE instead of a file          -i              then read lines from the terminal\n"
    "  -               run standard input\n"
    "  --device NAME   cpu (default), cuda or cuda:N       --threads N     default: the cores this process may use\n"
    "  --devices N     N processes train together          --restarts N    start them again after a failure\n"
    "  --seed N        instead of the experiment's seed    --out DIR       instead of runs/<name>\n"
    "  --smoke         the whole experiment in seconds, on a handful of images\n"
    "  --resume        go on, also to more epochs          --overwrite     start a run over\n"
    "  --quiet         no progress                         --verbose       more of it\n"
    "  --trace         with an error, the library's lines and libtorch's own text\n"
    "  --profile       before each training, where the time of its steps goes: nodes and operators\n"
    "  --help  --version\n"
    "\n"
    "Options may also follow FILE. Exit status: 0 done, 1 failed, 2 wrong usage, 130 interrupted, 143 terminated.\n"
    "SIGUSR1 or SIGUSR2: the training step ends, a checkpoint is written; under SLURM the job is queued again.");
}

static bool wrong(const char *format, const char *value) {
  fputs("medxai-run: ", stderr);
  fprintf(stderr, format, value);
  fputs(" See medxai-run --help.\n", stderr);
  return false;
}

static bool whole_number(const char *text, long long least, long long most, long long *out) {
  char *end;
  errno = 0;
  long long n = strtoll(text, &end, 10);
  if (end == text || *end || errno || n < least || n > most) return false;
  *out = n;
  return true;
}

static bool device_name(const char *text) {
  long long n;
  if (strcmp(text, "cpu") == 0 || strcmp(text, "cuda") == 0) return true;
  return strncmp(text, "cuda:", 5) == 0 && text[5] >= '0' && text[5] <= '9' && whole_number(text + 5, 0, 63, &n);
}

static bool apply(host_options *o, int option, const char *value) {
  long long n = 0;
  switch (option) {
    case O_THREADS:
      if (!whole_number(value, 1, 1024, &n))
        return wrong("--threads: '%s' is not a number of threads (1 to 1024).", value);
      o->threads = (int)n;
      return true;
    case O_SEED:
      if (!whole_number(value, 0, LLONG_MAX, &n)) return wrong("--seed: '%s' is not a whole number from 0.", value);
      o->seed = n; o->has_seed = true;
      return true;
    case O_DEVICE:
      if (!device_name(value)) return wrong("--device: '%s' is not a device (cpu, cuda or cuda:N).", value);
      o->device = value;
      return true;
    case O_DEVICES:
      if (!whole_number(value, 1, 1024, &n))
        return wrong("--devices: '%s' is not a number of processes (1 to 1024).", value);
      o->devices = (int)n;
      return true;
    case O_RESTARTS:
      if (!whole_number(value, 0, 1000, &n)) return wrong("--restarts: '%s' is not a number (0 to 1000).", value);
      o->restarts = (int)n;
      return true;
    case O_OUT:
      if (!*value) return wrong("--out: no folder named%s.", value);
      o->out = value;
      return true;
    case O_TRACE:     o->trace = true;     return true;
    case O_PROFILE:   o->profile = true;   return true;
    case O_SMOKE:     o->smoke = true;     return true;
    case O_RESUME:    o->resume = true;    return true;
    case O_OVERWRITE: o->overwrite = true; return true;
    case O_QUIET:     o->quiet = true;     return true;
    case O_VERBOSE:   o->verbose = true;   return true;
    case O_HELP:      o->help = true;      return true;
    case O_VERSION:   o->version = true;   return true;
    default:          return false;
  }
}

static const struct option *find(const char *name, size_t length) {
  for (const struct option *k = known; k->name; k++)
    if (strlen(k->name) == length && strncmp(k->name, name, length) == 0) return k;
  return NULL;
}

/* Whether the word after --name is its value: another --option is not, but a negative number is. */
static bool is_value(const char *word) { return word && strncmp(word, "--", 2) != 0; }

static bool add_field(host_options *o, char *name, char *equals, char *next, int *i) {
  if (equals) *equals = '\0';
  if (!*name) return wrong("'--%s=' names no field.", "");
  for (char *c = name; *c; c++) if (*c == '-') *c = '_'; /* --size-px is size_px */
  const char *value = equals ? equals + 1 : is_value(next) ? (++*i, next) : "true";
  o->fields[o->nfields++] = (host_pair){ name, value };
  return true;
}

/* What follows FILE (or -e CODE): known options, fields, and plain words, which are the experiment's own arguments. */
static bool read_rest(host_options *o, int argc, char **argv, int i, bool words_only) {
  for (; i < argc; i++) {
    char *word = argv[i];
    if (words_only || strncmp(word, "--", 2) != 0) { o->args[o->nargs++] = word; continue; }
    if (!word[2]) { words_only = true; continue; }
    char *name = word + 2, *equals = strchr(name, '='), *next = i + 1 < argc ? argv[i + 1] : NULL;
    const struct option *k = find(name, equals ? (size_t)(equals - name) : strlen(name));
    if (!k) {
      if (!add_field(o, name, equals, next, &i)) return false;
    } else if (k->has_arg == required_argument) {
      if (!equals && !is_value(next)) return wrong("--%s needs a value.", name);
      if (!apply(o, k->val, equals ? equals + 1 : argv[++i])) return false;
    } else {
      if (equals) { *equals = '\0'; return wrong("--%s takes no value.", name); }
      if (!apply(o, k->val, NULL)) return false;
    }
  }
  return true;
}

/* The option at which getopt stopped, as the user wrote it: "-x" or "--name". */
static const char *stopped_at(char **argv) {
  static char letter[3] = "-?";
  letter[1] = (char)optopt;
  return optopt > 0 && optopt < O_THREADS ? letter : argv[optind - 1];
}

const char *command_file(const char *word) {
  static const char *const commands[][2] = {
    { "runs", "runs" },     { "slurm", "slurm" },   { "help", "help" },      { "models", "names" },
    { "methods", "names" }, { "metrics", "names" }, { "datasets", "names" },
  };
  for (size_t k = 0; k < sizeof commands / sizeof *commands; k++)
    if (strcmp(word, commands[k][0]) == 0) return commands[k][1];
  return NULL;
}

/* A command's word is one, unless a file of that name exists (a folder of that name does not count). */
static bool is_command(const char *word) {
  struct stat s;
  return command_file(word) && (stat(word, &s) != 0 || S_ISDIR(s.st_mode));
}

/* `--help NAME` is `help NAME`, unless NAME is an experiment or a command. */
static void name_after_help(host_options *o, const char *word) {
  struct stat s;
  size_t n = word ? strlen(word) : 0;
  if (!o->help || o->code || !word || word[0] == '-' || is_command(word) || stat(word, &s) == 0) return;
  if (n > 4 && strcmp(word + n - 4, ".lua") == 0) return;
  o->help = false; o->file = "help"; o->command = true;
}

bool options_read(host_options *o, int argc, char **argv) {
  memset(o, 0, sizeof *o);
  o->fields = calloc((size_t)argc + 1, sizeof *o->fields);
  o->args = calloc((size_t)argc + 1, sizeof *o->args);
  if (!o->fields || !o->args) { fputs("medxai-run: host: out of memory.\n", stderr); return false; }
  opterr = 0;
  int c;
  while ((c = getopt_long(argc, argv, "+:e:ihvq", known, NULL)) != -1) {
    switch (c) {
      case 'e':
        if (o->code) return wrong("-e is given twice%s.", "");
        o->code = optarg;
        break;
      case 'i': o->interactive = true; break;
      case 'h': o->help = true; break;
      case 'v': o->version = true; break;
      case 'q': o->quiet = true; break;
      case ':': return wrong("%s needs a value.", stopped_at(argv));
      case '?':
        if (o->code && optopt == 0) return read_rest(o, argc, argv, optind - 1, false); /* fields may follow -e CODE */
        if (optopt >= O_THREADS) return wrong("'%s' takes no value.", stopped_at(argv));
        return wrong("unknown option '%s' (fields of an experiment follow its FILE).", stopped_at(argv));
      default:
        if (!apply(o, c, optarg)) return false;
    }
  }
  int i = optind;
  bool words_only = o->code && strcmp(argv[i - 1], "--") == 0;
  name_after_help(o, argv[i]);
  if (!o->command && !o->code && i < argc) o->file = argv[i++];
  o->command = o->command || (o->file && is_command(o->file));
  return read_rest(o, argc, argv, i, words_only || o->command); /* a command reads its own words */
}

/* Several processes cannot share standard input, and a command is for one. */
bool options_check_devices(const host_options *o) {
  if (o->restarts > 0 && o->devices < 2) return wrong("--restarts goes with --devices N%s.", "");
  if (o->devices < 2) return true;
  bool whole = (o->file && strcmp(o->file, "-") != 0 && !o->command) || o->code;
  return whole && !o->interactive ? true : wrong("--devices needs an experiment's FILE%s.", "");
}

void options_free(host_options *o) { free(o->fields); free(o->args); }
