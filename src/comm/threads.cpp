#include "comm/threads.hpp"

#include <ATen/Parallel.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <map>
#include <set>
#include <sstream>
#include <tuple>

#include "comm/thread_speed.hpp"

namespace syncbn {
namespace {

std::vector<int> cores_of(pid_t process) {
  constexpr int kMostCores = 8 * CPU_SETSIZE;
  std::array<cpu_set_t, 8> sets{};
  std::vector<int> cores;
  if (sched_getaffinity(process, sizeof sets, sets.data()) != 0) return cores;
  for (int c = 0; c < kMostCores; ++c) {
    if (CPU_ISSET_S(static_cast<size_t>(c), sizeof sets, sets.data())) cores.push_back(c);
  }
  return cores;
}

bool overlap(const std::vector<int>& a, const std::vector<int>& b) {
  return std::any_of(a.begin(), a.end(),
                     [&](int core) { return std::find(b.begin(), b.end(), core) != b.end(); });
}

bool is_bound(const CoreFacts& facts) {
  return facts.cores.size() < facts.offered.size();
}

int count_threads(const std::vector<CoreFacts>& ranks, const CoreFacts& own, int requested) {
  if (requested > 0) return requested;
  if (own.omp_threads > 0) return own.omp_threads;
  const auto sharers = std::count_if(ranks.begin(), ranks.end(), [&](const CoreFacts& other) {
    return other.host == own.host && overlap(other.cores, own.cores);
  });
  return std::max(1, static_cast<int>(own.cores.size()) / std::max(1, static_cast<int>(sharers)));
}

/// "rank 3", "ranks 0, 1".
std::string rank_list(const std::vector<size_t>& ranks) {
  std::string text = ranks.size() == 1 ? "rank " : "ranks ";
  for (size_t i = 0; i < ranks.size(); ++i) text += concat(i == 0 ? "" : ", ", ranks[i]);
  return text;
}

std::string plural(size_t n, const char* noun) {
  return concat(n, ' ', noun, n == 1 ? "" : "s");
}

/// Ranks whose threads share a core because the launcher bound them.
std::vector<std::string> warn_bound(const std::vector<CoreFacts>& ranks,
                                    const std::vector<ThreadPlan>& plans,
                                    std::set<std::string>& hosts) {
  std::map<std::tuple<std::string, int, int>, std::vector<size_t>> groups;
  for (size_t r = 0; r < ranks.size(); ++r) {
    if (!is_bound(ranks[r]) || plans[r].threads <= plans[r].bound_cores) continue;
    groups[{ranks[r].host, plans[r].threads, plans[r].bound_cores}].push_back(r);
    hosts.insert(ranks[r].host);
  }
  std::vector<std::string> warnings;
  for (const auto& [group, members] : groups) {
    const auto& [host, threads, cores] = group;
    warnings.push_back(concat(rank_list(members), " on ", host, ": ", threads, " threads on ",
                              plural(static_cast<size_t>(cores), "core"),
                              ", to which the launcher bound them; start with mpirun --bind-to none"
                              " or --map-by slot:PE=",
                              threads, "."));
  }
  return warnings;
}

/// Ranks that the launcher bound to one and the same core.
std::vector<std::string> warn_stacked(const std::vector<CoreFacts>& ranks,
                                      std::set<std::string>& hosts) {
  std::map<std::pair<std::string, int>, std::vector<size_t>> groups;
  for (size_t r = 0; r < ranks.size(); ++r) {
    if (!is_bound(ranks[r]) || ranks[r].cores.size() != 1) continue;
    groups[{ranks[r].host, ranks[r].cores[0]}].push_back(r);
  }
  std::vector<std::string> warnings;
  for (const auto& [place, members] : groups) {
    if (members.size() < 2) continue;
    hosts.insert(place.first);
    warnings.push_back(concat(rank_list(members), " on ", place.first, " are all bound to core ",
                              place.second, "; start with mpirun --bind-to none."));
  }
  return warnings;
}

/// Hosts whose ranks run more threads than there are cores for them. `told`: hosts that a more
/// exact warning is about.
std::vector<std::string> warn_oversubscribed(const std::vector<CoreFacts>& ranks,
                                             const std::vector<ThreadPlan>& plans,
                                             const std::set<std::string>& told) {
  struct Load {
    size_t ranks = 0, threads = 0;
    std::set<int> cores;
  };
  std::map<std::string, Load> loads;
  for (size_t r = 0; r < ranks.size(); ++r) {
    Load& load = loads[ranks[r].host];
    ++load.ranks;
    load.threads += static_cast<size_t>(plans[r].threads);
    load.cores.insert(ranks[r].cores.begin(), ranks[r].cores.end());
  }
  std::vector<std::string> warnings;
  for (const auto& [host, load] : loads) {
    if (load.threads <= load.cores.size() || told.count(host) != 0) continue;
    warnings.push_back(concat(plural(load.ranks, "rank"), " on ", host, " run ",
                              plural(load.threads, "thread"), " on ",
                              plural(load.cores.size(), "core"),
                              "; start fewer ranks, or lower run.threads or OMP_NUM_THREADS."));
  }
  return warnings;
}

/// Hosts where ranks bound to one core each leave most cores idle (Open MPI binds up to two ranks
/// so).
std::vector<std::string> warn_idle(const std::vector<CoreFacts>& ranks,
                                   const std::vector<ThreadPlan>& plans, int requested) {
  std::map<std::string, std::pair<std::vector<size_t>, size_t>> hosts;  // members, offered cores
  for (size_t r = 0; r < ranks.size(); ++r) {
    auto& [members, offered] = hosts[ranks[r].host];
    offered = std::max(offered, ranks[r].offered.size());
    if (plans[r].bound_cores == 1 && requested == 0 && ranks[r].omp_threads == 0) {
      members.push_back(r);
    }
  }
  std::vector<std::string> warnings;
  for (const auto& [host, facts] : hosts) {
    const auto& [members, offered] = facts;
    if (members.empty() || offered < 2 * members.size()) continue;
    warnings.push_back(concat(rank_list(members), " on ", host, ": bound to one core each, of ",
                              offered,
                              "; to use more, start with mpirun --bind-to none or --map-by"
                              " slot:PE=",
                              offered / members.size(), "."));
  }
  return warnings;
}

int omp_threads() {
  const char* text = std::getenv("OMP_NUM_THREADS");  // "4", or "4,2" for nested regions
  return text == nullptr ? 0 : std::max(0, std::atoi(text));
}

std::string encode(const CoreFacts& facts) {
  std::string text = concat(facts.host, '\n', facts.omp_threads, '\n');
  for (const int core : facts.cores) text += concat(core, ' ');
  text += '\n';
  for (const int core : facts.offered) text += concat(core, ' ');
  return text + '\n';
}

CoreFacts decode(const std::string& text) {
  std::istringstream in(text);
  CoreFacts facts;
  std::getline(in, facts.host);
  std::string line;
  std::getline(in, line);
  facts.omp_threads = std::stoi(line);
  for (auto* cores : {&facts.cores, &facts.offered}) {
    std::getline(in, line);
    std::istringstream numbers(line);
    for (int core; numbers >> core;) cores->push_back(core);
  }
  return facts;
}

std::string encode(const ThreadSpeed& speed) {
  return concat(speed.threads, ' ', speed.on_one_s, ' ', speed.on_all_s);
}

ThreadSpeed decode_speed(const std::string& text) {
  ThreadSpeed speed;
  std::istringstream(text) >> speed.threads >> speed.on_one_s >> speed.on_all_s;
  return speed;
}

}  // namespace

std::vector<ThreadPlan> plan_all_threads(const std::vector<CoreFacts>& ranks, int requested) {
  std::vector<ThreadPlan> plans(ranks.size());
  for (size_t r = 0; r < ranks.size(); ++r) {
    plans[r].threads = count_threads(ranks, ranks[r], requested);
    plans[r].bound_cores = std::max(1, static_cast<int>(ranks[r].cores.size()));
  }
  std::set<std::string> told;
  std::vector<std::string> warnings = warn_bound(ranks, plans, told);
  for (const auto& more : {warn_stacked(ranks, told), warn_oversubscribed(ranks, plans, told),
                           warn_idle(ranks, plans, requested)}) {
    warnings.insert(warnings.end(), more.begin(), more.end());
  }
  for (auto& plan : plans) plan.warnings = warnings;
  return plans;
}

ThreadPlan plan_threads(Runtime& runtime, int requested) {
  CoreFacts own{runtime.host(), cores_of(0), cores_of(getppid()), omp_threads()};
  std::vector<CoreFacts> ranks;
  for (const auto& text : runtime.world()->gather_text(encode(own), {"cores of the ranks"})) {
    ranks.push_back(decode(text));
  }
  const std::vector<ThreadPlan> plans = plan_all_threads(ranks, requested);
  ThreadPlan plan = plans[static_cast<size_t>(runtime.rank())];
  at::set_num_threads(plan.threads);
  if (std::all_of(plans.begin(), plans.end(), [](const ThreadPlan& p) { return p.threads == 1; })) {
    return plan;
  }
  // All ranks try at once, as they will train.
  std::vector<ThreadSpeed> speeds;
  std::vector<std::string> hosts;
  const std::string own_speed = encode(try_threads(plan.threads));
  for (const auto& text : runtime.world()->gather_text(own_speed, {"speed of the threads"})) {
    hosts.push_back(ranks[speeds.size()].host);
    speeds.push_back(decode_speed(text));
  }
  for (const auto& more : warn_slow_threads(speeds, hosts)) plan.warnings.push_back(more);
  return plan;
}

}  // namespace syncbn
