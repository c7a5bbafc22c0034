// The views, in the order of the menu. Those without a label are reached from others.

import { access } from "./views/access.js";
import { chat } from "./views/chat.js";
import { clients } from "./views/clients.js";
import { cluster } from "./views/cluster.js";
import { conversations } from "./views/conversations.js";
import { erasures } from "./views/erasures.js";
import { jobs } from "./views/jobs.js";
import { message } from "./views/message.js";
import { overview } from "./views/overview.js";
import { presence } from "./views/presence.js";
import { retained } from "./views/retained.js";
import { rules } from "./views/rules.js";
import { schedules } from "./views/schedules.js";
import { search } from "./views/search.js";
import { timeline } from "./views/timeline.js";
import { tokens } from "./views/tokens.js";
import { topics } from "./views/topics.js";
import { users } from "./views/users.js";

export const GROUPS = ["Live", "Messages", "Administration"];

export const start = { operator: "overview", user: "conversations" };

// {name: in the address, label: in the menu, group, operator: whether it is the operator's alone, show(place, path, signal)}
export const VIEWS = [
  { name: "overview", label: "Overview", group: "Live", operator: true, show: overview },
  { name: "clients", label: "Clients", group: "Live", operator: true, show: clients },
  { name: "timeline", label: "Timelines", group: "Live", show: timeline },
  { name: "presence", label: "Presence", group: "Live", show: presence },
  { name: "topics", label: "Topics", group: "Messages", operator: true, show: topics },
  { name: "conversations", label: "Conversations", group: "Messages", show: conversations },
  { name: "search", label: "Search", group: "Messages", show: search },
  { name: "retained", label: "Retained", group: "Messages", show: retained },
  { name: "schedules", label: "Schedules", group: "Messages", show: schedules },
  { name: "chat", label: "Chat", group: "Messages", show: chat },
  { name: "message", title: "Message", marks: "search", show: message },
  { name: "users", label: "Users", group: "Administration", operator: true, show: users },
  { name: "tokens", label: "Tokens", group: "Administration", show: tokens },
  { name: "access", label: "Access rules", group: "Administration", operator: true, show: access },
  { name: "rules", label: "Rules", group: "Administration", operator: true, show: rules },
  { name: "erasures", label: "Erasures", group: "Administration", operator: true, show: erasures },
  { name: "jobs", label: "Jobs", group: "Administration", operator: true, show: jobs },
  { name: "cluster", label: "Cluster", group: "Administration", operator: true, show: cluster },
];
