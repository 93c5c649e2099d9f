#include "cli/studies/analysis_job.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <map>

#include "cli/studies/fasta.h"
#include "cli/studies/model_weights.h"
#include "cli/studies/run_source.h"
#include "cli/terminal/command_error.h"

namespace moetap::cli {
namespace {

using studies::StudyEntry;

constexpr const char* kLog = "log";              // studies of LibMoE's logs
constexpr const char* kSequences = "sequences";  // of FASTA files

std::vector<StudyEntry> chosen_studies(const AnalyzeOptions& options) {
  const std::vector<StudyEntry> all = studies::all_studies();
  std::vector<StudyEntry> chosen;
  for (const StudyEntry& entry : all) {
    const bool named = std::find(options.only.begin(), options.only.end(), entry.name) != options.only.end();
    if (options.only.empty() ? !entry.by_name_only : named) chosen.push_back(entry);
  }
  for (const std::string& name : options.only) {
    const bool known = std::any_of(all.begin(), all.end(), [&](const StudyEntry& entry) { return name == entry.name; });
    if (known) continue;
    std::vector<std::string> names;
    for (const StudyEntry& entry : all) names.emplace_back(entry.name);
    throw CommandError(fmt::format("--only: \"{}\" is no study; the studies are {}", name, fmt::join(names, ", ")),
                       kExitUsage);
  }
  return chosen;
}

/// Adds a study to the component's list, in the order in which components come.
void add_study(AnalysisPlan& plan, const studies::ComponentShape& shape, const std::string& study) {
  for (AnalysisPlan::OfComponent& of : plan.components) {
    if (of.shape.name != shape.name) continue;
    of.studies.push_back(study);
    return;
  }
  plan.components.push_back({shape, {study}});
}

void add_once(std::vector<std::string>& lines, const std::vector<std::string>& more) {
  for (const std::string& line : more) {
    if (std::find(lines.begin(), lines.end(), line) == lines.end()) lines.push_back(line);
  }
}

/// Studies that see no tokens: has they what they need?
uint32_t beside_tokens(const StudyInputs& inputs, const AnalyzeOptions& options) {
  uint32_t has = 0;
  if (!inputs.logs().empty()) has |= studies::kNeedsLog;
  if (inputs.num_inputs() >= 2) has |= studies::kNeedsTwoRuns;
  if (!options.positive.empty() || !options.negative.empty()) has |= studies::kNeedsSequences;
  if (!options.models.empty()) has |= studies::kNeedsModel;
  if (options.models.size() >= 2) has |= studies::kNeedsTwoModels;
  return has;
}

class Planner {
 public:
  Planner(StudyInputs& inputs, const AnalyzeOptions& options) : inputs_(inputs), options_(options) {
    plan_.inputs = inputs.about();
    plan_.options = options;
    plan_.is_arrays = inputs.is_arrays();
    beside_ = beside_tokens(inputs, options);
  }

  AnalysisPlan plan() {
    for (const StudyEntry& entry : chosen_studies(options_)) {
      const std::string why = entry.make_pair != nullptr ? plan_pair(entry) : plan_study(entry);
      if (!why.empty()) plan_.left_out.push_back({entry.name, why});
    }
    for (AnalysisPlan::OfComponent& of : plan_.components) {
      if (!of.shape.layers.empty() && inputs_.has_tokens()) of.studies.insert(of.studies.begin(), "input_check");
    }
    plan_.options.study.notebook_padding = inputs_.padding_of_notebook();
    return std::move(plan_);
  }

 private:
  /// "" if it is planned, else what it lacks.
  std::string plan_study(const StudyEntry& entry) {
    const uint32_t beside = entry.needs & (studies::kNeedsLog | studies::kNeedsSequences);
    if (beside != 0) {
      const std::string why = missing_input(entry, beside_);
      studies::ComponentShape shape;
      shape.name = (entry.needs & studies::kNeedsLog) != 0 ? kLog : kSequences;
      if (why.empty()) add_study(plan_, shape, entry.name);
      return why;
    }
    if (!inputs_.has_tokens()) return plan_of_model(entry);
    std::string why;
    bool planned = false;
    for (const std::string& component : inputs_.components()) {
      const TokenSource& source = inputs_.tokens(component);
      const std::string lacks = missing_input(entry, source.has() | beside_);
      if (lacks.empty()) {
        add_study(plan_, source.shape(), entry.name);
        planned = true;
        say_what_gates_are(entry, source);
      } else {
        why = lacks;
      }
      add_once(plan_.notices, source.notices());
    }
    return planned ? "" : why;
  }

  void say_what_gates_are(const StudyEntry& entry, const TokenSource& source) {
    const auto* run = dynamic_cast<const RunSource*>(&source);
    if (run == nullptr || !run->columns().gates_are_weights || (entry.needs & studies::kNeedsGates) == 0) return;
    add_once(plan_.notices,
             {fmt::format("the gates of {} are its weights: the dump has no scores (--dump full has them)",
                          source.shape().name)});
  }

  /// Without tokens: of the first model's routers.
  std::string plan_of_model(const StudyEntry& entry) {
    std::string why = missing_input(entry, beside_);
    if (!why.empty()) return why;
    for (const auto& [name, shape] : ModelWeights(options_.models.front()).shapes()) {
      if (options_.component.empty() || options_.component == name) add_study(plan_, shape, entry.name);
    }
    return "";
  }

  std::string plan_pair(const StudyEntry& entry) {
    if (!inputs_.is_pair()) {
      if (entry.instead != 0 && (entry.instead & ~beside_) == 0) return plan_pair_of_models(entry);
      return missing_input(entry, beside_ & ~uint32_t{studies::kNeedsTwoRuns});
    }
    std::string why;
    bool planned = false;
    for (const std::string& component : inputs_.components()) {
      const TokenSource &a = inputs_.side(component, 0), &b = inputs_.side(component, 1);
      std::vector<std::string> notices;
      studies::PairShape shape = pair_shape(a, b, inputs_.path(0), inputs_.path(1), notices);
      const std::string lacks = missing_input(entry, (a.has() & b.has()) | beside_);
      if (shape.a.layers.empty() || !lacks.empty()) {
        why = lacks.empty() ? "runs that have a layer in common" : lacks;
        continue;
      }
      add_once(plan_.notices, notices);
      for (const TokenSource* side : {&a, &b}) add_once(plan_.notices, side->notices());
      planned = true;
      add(std::move(shape), entry.name);
    }
    return planned ? "" : why;
  }

  /// Without two runs: of the routers of two models.
  std::string plan_pair_of_models(const StudyEntry& entry) {
    const std::string &path_a = options_.models[0], &path_b = options_.models[1];
    const auto of_a = ModelWeights(path_a).shapes(), of_b = ModelWeights(path_b).shapes();
    bool planned = false;
    for (const auto& [name, a] : of_a) {
      const auto b = of_b.find(name);
      if (b == of_b.end() || (!options_.component.empty() && options_.component != name)) continue;
      studies::PairShape shape = pair_of_shapes(a, b->second, path_a, path_b, plan_.notices);
      if (shape.a.layers.empty()) continue;
      planned = true;
      add(std::move(shape), entry.name);
    }
    return planned ? "" : "models that have a layer in common";
  }

  void add(studies::PairShape shape, const std::string& study) {
    const auto found = std::find_if(plan_.pairs.begin(), plan_.pairs.end(),
                                    [&](const AnalysisPlan::OfPair& of) { return of.shape.a.name == shape.a.name; });
    if (found == plan_.pairs.end()) {
      plan_.pairs.push_back({std::move(shape), {study}});
    } else {
      found->studies.push_back(study);
    }
  }

  StudyInputs& inputs_;
  const AnalyzeOptions& options_;
  AnalysisPlan plan_;
  uint32_t beside_ = 0;
};

void observe_logs(const StudyInputs& inputs, std::vector<RunningStudy>& running, const PassOptions& options) {
  // A shard takes every n-th entry: how many there are is not known before the end.
  int64_t place = 0;
  for (const LibMoeLog& log : inputs.logs()) {
    int64_t last = -1;
    log.read(
        [&](const studies::LoggedEntry& entry) {
          if (entry.place != last) ++place;
          last = entry.place;
          if (place % options.shard.count != options.shard.index) return;
          for (RunningStudy& of : running) of.study->observe(entry);
        },
        options.check);
  }
}

/// A shard takes every n-th record, as above.
void observe_sequences(const AnalyzeOptions& of, std::vector<RunningStudy>& running, const PassOptions& options) {
  int64_t place = 0;
  for (const bool is_positive : {true, false}) {
    for (const std::string& path : is_positive ? of.positive : of.negative) {
      options.check();
      read_fasta(path, [&](std::string_view letters) {
        if (place++ % options.shard.count != options.shard.index) return;
        for (RunningStudy& running_study : running)
          running_study.study->observe(studies::SequenceRecord{is_positive, letters});
      });
    }
  }
}

/// Weights are no shares of anything: the first shard has them.
template <typename Running>
void observe_weights(const AnalysisPlan& plan, const studies::ComponentShape& shape, std::vector<Running>& running,
                     const PassOptions& options) {
  const auto takes_weights = [](const Running& of) {
    return ((of.entry->needs | of.entry->wants) & studies::kNeedsModel) != 0;
  };
  if (options.shard.index != 0 || std::none_of(running.begin(), running.end(), takes_weights)) return;
  const std::vector<std::string>& models = plan.options.models;
  for (size_t model = 0; model < models.size(); ++model) {
    options.check();
    ModelWeights(models[model]).read(shape, static_cast<int32_t>(model), [&](const studies::WeightMatrix& weight) {
      for (Running& of : running) {
        if (takes_weights(of)) of.study->observe(weight);
      }
    });
  }
}

}  // namespace

AnalysisPlan plan_analysis(StudyInputs& inputs, const AnalyzeOptions& options) {
  return Planner(inputs, options).plan();
}

void require_studies(const AnalysisPlan& plan) {
  if (!plan.is_empty()) return;
  const bool named = !plan.options.only.empty() && !plan.left_out.empty();
  throw CommandError(named ? fmt::format("{} needs {}", plan.left_out.front().study, plan.left_out.front().needs)
                           : "no study can be made of these inputs; moetap analyze --list says what each needs");
}

void observe_inputs(StudyInputs& inputs, StudySums& sums, const PassOptions& options) {
  const AnalysisPlan& plan = sums.plan();
  for (size_t i = 0; i < plan.components.size(); ++i) {
    std::vector<RunningStudy>& running = sums.of_component(i);
    const std::string& name = plan.components[i].shape.name;
    if (plan.components[i].shape.layers.empty() && name == kLog) {
      observe_logs(inputs, running, options);
    } else if (plan.components[i].shape.layers.empty() && name == kSequences) {
      observe_sequences(plan.options, running, options);
    } else if (!plan.components[i].shape.layers.empty()) {
      if (inputs.has_tokens()) make_studies(inputs.tokens(name), running, options);
      observe_weights(plan, plan.components[i].shape, running, options);
    }
  }
  for (size_t i = 0; i < plan.pairs.size(); ++i) {
    const std::string& name = plan.pairs[i].shape.a.name;
    if (inputs.is_pair()) {
      make_pair_studies(inputs.side(name, 0), inputs.side(name, 1), plan.pairs[i].shape, sums.of_pair(i), options);
    }
    observe_weights(plan, plan.pairs[i].shape.a, sums.of_pair(i), options);
  }
}

}  // namespace moetap::cli
