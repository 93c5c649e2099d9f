#include "cli/studies/study_run.h"

#include <algorithm>
#include <memory>
#include <thread>
#include <utility>

#include "cli/terminal/progress.h"

namespace moetap::cli {
namespace {

/// A bar that follows what the passes report.
class PassProgress {
 public:
  void show(int64_t done, int64_t total) {
    if (!progress_ || total != total_ || done < done_) {
      progress_ = std::make_unique<Progress>("% of a pass", 100);
      total_ = total;
      percent_ = 0;
    }
    done_ = done;
    for (; percent_ < 100 * done / std::max<int64_t>(total, 1); ++percent_) progress_->advance();
  }

 private:
  std::unique_ptr<Progress> progress_;
  int64_t total_ = -1, done_ = 0, percent_ = 0;
};

}  // namespace

OpenStudies::OpenStudies(const StudyRun& run)
    : run_(run), inputs_(run.inputs, {run.options, run.scratch_folder, run.check}) {
  plan_ = plan_analysis(inputs_, run.options);
}

void OpenStudies::add_notices(const std::vector<std::string>& lines) {
  plan_.notices.insert(plan_.notices.end(), lines.begin(), lines.end());
}

StudySums OpenStudies::observe() {
  StudySums sums(std::move(plan_));
  PassProgress progress;
  PassOptions passes;
  passes.shard = run_.shard;
  const auto cores = static_cast<int>(std::max(std::thread::hardware_concurrency(), 1U));
  passes.num_threads = run_.num_threads > 0 ? run_.num_threads : cores;
  passes.check = run_.check;
  passes.progress = [&](int64_t done, int64_t total) { progress.show(done, total); };
  observe_inputs(inputs_, sums, passes);
  return sums;
}

}  // namespace moetap::cli
