#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "cli/exports/export_format.h"
#include "cli/inputs/sha256.h"
#include "cli/terminal/command_error.h"
#include "plugin/formats/atomic_file.h"
#include "plugin/formats/whole_file.h"

namespace moetap::cli {
namespace {

namespace fs = std::filesystem;

constexpr size_t kLongestSuffix = 15;
constexpr size_t kKeptOfSuffix = 5;
constexpr size_t kHashDigits = 6;
constexpr size_t kHeadBytes = size_t{64} << 10;

/// The key `time` stands before the entries, so the head of the log has it.
std::string time_of_log(const fs::path& log) {
  std::ifstream file(log, std::ios::binary);
  std::string head(kHeadBytes, '\0');
  file.read(head.data(), static_cast<std::streamsize>(head.size()));
  head.resize(static_cast<size_t>(file.gcount()));
  head = head.substr(0, head.find("\"logs\""));
  const size_t key = head.find("\"time\"");
  const size_t begin = key == std::string::npos ? key : head.find('"', head.find(':', key));
  const size_t end = begin == std::string::npos ? begin : head.find('"', begin + 1);
  if (end == std::string::npos)
    throw CommandError(fmt::format("{}: is no log of moetap: it has no time", log.string()));
  return head.substr(begin + 1, end - begin - 1);
}

void copy_file(const ExportJob& job, const fs::path& from, const fs::path& to) {
  std::ifstream input(from, std::ios::binary);
  if (!input) throw CommandError(fmt::format("{}: cannot be read", from.string()));
  plugin::AtomicFile output(to.string());
  std::string block(size_t{1} << 20, '\0');
  while (input) {
    job.check();
    input.read(block.data(), static_cast<std::streamsize>(block.size()));
    output.write(std::string_view(block).substr(0, static_cast<size_t>(input.gcount())));
  }
  if (!input.eof()) throw CommandError(fmt::format("{}: cannot be read to its end", from.string()));
  output.commit();
}

/// Text that names a folder: nothing that leads to another one.
std::string as_name(std::string text) {
  std::replace(text.begin(), text.end(), '/', '_');
  return text;
}

}  // namespace

void export_libmoe(const ExportJob& job) {
  const plugin::RunReader& run = job.run();
  if (run.ranks().size() > 1) {
    throw CommandError(fmt::format("{}: has a log for each of {} ranks; merge them first with moetap merge", run.path(),
                                   run.ranks().size()));
  }
  const fs::path log_folder = run.log_folder(run.ranks().front());
  const fs::path log = log_folder / (run.task() + ".json");
  const auto results = nlohmann::json::parse(plugin::read_whole_file((log_folder / "results.json").string()));
  const auto model_args = results.at("model_configs").at("model_args").get<std::string>();
  std::string suffix = as_name(job.options.suffix.empty() ? run.task() : job.options.suffix);
  if (suffix.size() > kLongestSuffix) {
    suffix = suffix.substr(0, kKeptOfSuffix) + "..." + suffix.substr(suffix.size() - kKeptOfSuffix);
  }
  const std::string first = model_args.substr(0, model_args.find(','));
  const std::string model = first.substr(first.rfind('/') + 1);
  const std::string name = fmt::format("{}_{}_{}_model_args_{}", time_of_log(log), suffix, model,
                                       sha256_of_text(model_args).substr(0, kHashDigits));
  const fs::path folder = fs::path(job.output) / name;
  fs::create_directories(folder);
  copy_file(job, log, folder / log.filename());
  copy_file(job, log_folder / "results.json", folder / "results.json");
  const std::string marker = fmt::format("rank{}_metric_eval_done.txt", run.ranks().front());
  copy_file(job, fs::path(run.path()) / marker, folder / marker);
  job.results.push_back(name);
}

}  // namespace moetap::cli
