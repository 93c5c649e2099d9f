#include "cli/commands/study_arguments.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <vector>

namespace moetap::cli {
namespace {

std::vector<std::string> split(const std::string& text) {
  std::vector<std::string> parts;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find(',', begin), text.size());
    if (end > begin) parts.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return parts;
}

}  // namespace

AnalyzeOptions StudyArguments::parsed() const {
  AnalyzeOptions parsed = options;
  parsed.only = split(only);
  // Usage counts all tokens and the cache those that are generated, unless the user says otherwise.
  parsed.study.phase = phase == "all" ? "" : phase;
  if (!phase.empty()) parsed.study.cache_phase = phase;
  if (!cache_phase.empty()) parsed.study.cache_phase = cache_phase;
  return parsed;
}

void add_study_arguments(CLI::App* app, StudyArguments& arguments, const std::string& group) {
  AnalyzeOptions& of = arguments.options;
  const std::vector<CLI::Option*> before = app->get_options();
  app->add_option("--only", arguments.only, "Only these studies, by name")->type_name("NAME,NAME");
  app->add_option("--definitions", of.definitions, "recommended (default), or notebook: its numbers, bugs included")
      ->check(CLI::IsMember({"recommended", "notebook"}))
      ->type_name("NAME");
  app->add_option("--gate", of.gate, "raw (default), or topk: a token's gates divided by their sum over its experts")
      ->check(CLI::IsMember({"raw", "topk"}))
      ->type_name("NAME");
  app->add_option("--component", of.component, "Only this component")->type_name("NAME");
  app->add_option("--top-k", of.top_k, "Logits: how many experts a token chooses")
      ->check(CLI::Range(1, 1 << 20))
      ->type_name("K");
  app->add_option("--experts", of.num_experts, "Routed ids: how many experts there are; default: the largest id + 1")
      ->check(CLI::Range(1, 1 << 20))
      ->type_name("E");
  app->add_option("--group-by", of.group_by, "Groups of samples: a field of their doc, or phase")->type_name("KEY");
  app->add_option("--samples", of.samples_file, "The samples' docs, if the file that the run was recorded with is gone")
      ->type_name("FILE");
  app->add_option("--sample", of.study.sample, "The Sankeys' sample, by number")->type_name("I");
  app->add_option("--layer", of.layer, "The Sankeys' layer, by id")->type_name("ID");
  app->add_option("--token-range", of.study.token_range, "usage: a slice of the tokens, as Python's")->type_name("A:B");
  app->add_flag("--warm", of.study.warm, "expert_cache: keep the cache from sample to sample");
  app->add_option("--placement", of.placement, "placement: JSON, layer -> GPU of each expert")->type_name("FILE");
  app->add_option("--tokenizer", of.tokenizer, "Texts of token ids: a tokenizer.json")->type_name("FILE");
  app->add_option("--alphabet", of.alphabet, "Texts of token ids: letter i is id i")->type_name("LETTERS");
  app->add_option("--model", of.models,
                  "Weights of routers and experts: a TorchScript model, or one of each of two runs")
      ->type_name("MODEL.pt...");
  app->add_option("--positive", of.positive, "FASTA files of the positive set")->type_name("FILE...");
  app->add_option("--negative", of.negative, "FASTA files of the negative set")->type_name("FILE...");
  app->add_option("--max-length", of.study.max_length, "aa_correlation: leave out longer sequences")->type_name("N");
  app->add_option("--regions", of.study.regions, "information_flow: parts of a sequence (default 5)")
      ->check(CLI::Range(int64_t{1}, studies::kMaxRegions))
      ->type_name("R");
  app->add_flag("--absolute-regions", of.study.absolute_regions, "information_flow: parts of the padded length");
  app->add_option("--top", of.study.top, "Sankeys: how many experts")->check(CLI::NonNegativeNumber)->type_name("N");
  app->add_option("--threshold", of.study.threshold, "Sankeys: leave out links below")->type_name("X");
  app->add_option("--link-share", of.study.link_share, "sankey_group_expert_region: leave out links below this share")
      ->type_name("X");
  app->add_option("--draws", of.study.draws, "groups: draws of the bootstrap and of the permutation (default 1000)")
      ->check(CLI::Range(int64_t{1}, studies::kMaxDraws))
      ->type_name("N");
  app->add_option("--seed", of.study.seed, "groups: of the draws")->type_name("N");
  app->add_option("--delta-max", of.study.delta_max,
                  "layer_activation: pairs of layers up to so far apart (default 30)")
      ->check(CLI::Range(int64_t{1}, studies::kMaxDelta))
      ->type_name("N");
  app->add_option("--phase", arguments.phase, "usage: tokens of this phase; expert_cache: accesses that count")
      ->check(CLI::IsMember({"prompt", "generation", "all"}))
      ->type_name("prompt|generation|all");
  app->add_option("--cache-phase", arguments.cache_phase, "expert_cache alone (default generation)")
      ->check(CLI::IsMember({"prompt", "generation", "all"}))
      ->type_name("prompt|generation|all");
  app->add_option("--threads", arguments.num_threads, "Threads; default: one a core")
      ->check(CLI::Range(1, 4096))
      ->type_name("N");
  if (group.empty()) return;
  for (CLI::Option* option : app->get_options()) {
    if (std::find(before.begin(), before.end(), option) == before.end()) option->group(group);
  }
}

}  // namespace moetap::cli
