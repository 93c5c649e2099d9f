#include <fmt/format.h>
#include <fmt/ranges.h>

#include <memory>
#include <string>

#include "cli/commands/commands.h"
#include "cli/terminal/command_error.h"
#include "plugin/run/run_recovery.h"

namespace moetap::cli {
namespace {

std::string plural(int64_t number, const std::string& what, const std::string& whats) {
  return fmt::format("{} {}", number, number == 1 ? what : whats);
}

void print(const std::string& run_dir, const plugin::RecoveredRank& rank) {
  fmt::print("{}: recovered {} with {} that rank {} had recorded ({})\n", run_dir,
             plural(rank.forwards, "forward", "forwards"), plural(rank.entries, "log entry", "log entries"), rank.rank,
             rank.note.owner);
  std::string lost;
  const auto add = [&](int64_t number, const std::string& text) {
    if (number > 0) lost += (lost.empty() ? "" : ", ") + text;
  };
  add(rank.note.lost_forwards,
      "at least " + plural(rank.note.lost_forwards, "forward that waited", "forwards that waited") + " to be written");
  add(rank.unwritten,
      plural(rank.unwritten, "forward", "forwards") + " that could not be recorded, as the run had said");
  add(rank.note.lost_bytes,
      plural(rank.note.lost_bytes, "byte", "bytes") + " behind the last whole frame of the journal");
  add(rank.note.missing_dump_rows, plural(rank.note.missing_dump_rows, "row", "rows") + " of the dump");
  fmt::print("{}: {}\n", run_dir,
             lost.empty() ? "nothing that had been written is lost" : "lost: " + lost + " (see moetap/manifest.json)");
}

int recover(const std::string& run_dir) {
  const plugin::RunRecovery recovery = plugin::recover_run(run_dir);
  for (const auto& rank : recovery.ranks) print(run_dir, rank);
  if (!recovery.errors.empty()) throw CommandError(fmt::format("{}", fmt::join(recovery.errors, "; ")));
  if (recovery.ranks.empty()) fmt::print("{}: the run is whole, nothing to recover\n", run_dir);
  return 0;
}

}  // namespace

Command add_recover(CLI::App& program) {
  auto run_dir = std::make_shared<std::string>();
  CLI::App* app =
      program.add_subcommand("recover", "Rebuild the files of a run whose process died, from the journal that it left");
  app->add_option("RUN_DIR", *run_dir, "Directory of the run; its files are written there")->required();
  app->footer(
      "Exit status: 0 recovered, or the run was whole; 1 nothing to recover, still being written, the disk refuses, or "
      "the run recorded nothing: its files are written, but it is not marked as done. Nothing is lost when it fails or "
      "is killed: run it again.");
  return {app, [run_dir] { return recover(*run_dir); }};
}

}  // namespace moetap::cli
