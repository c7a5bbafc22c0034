// What a local copy promises. A change has happened for good, whatever becomes of the process or the machine, when its promise
// resolves; one that rejects has not happened. Changes happen in the order in which they were asked for.

/** @typedef {import("../model.js").Message} Message */
/** @typedef {import("../model.js").Outgoing} Outgoing */

/**
 * @typedef {object} Store
 * @property {() => Promise<void>} open Before all others. Rejects with `StoreInUse` where another process or tab has it, and with `StoreDamaged`.
 * @property {() => Promise<void>} close After what was asked for before.
 *
 * @property {(message: Message, offset?: number) => Promise<boolean>} take Keep a message, and how far the inbox was taken; false where the message was there.
 *   What it recalls loses its content, and so does what is there and comes again as recalled.
 * @property {(topic: string, limit: number, before?: number) => Promise<Message[]>} history The newest messages of a conversation that are here, the oldest first.
 * @property {() => Promise<string[]>} topics The conversations that have messages here, sorted.
 *
 * @property {(topic: string) => Promise<number>} unread How many messages that are here come after the read position.
 * @property {(topic: string) => Promise<number>} position How far the user has read.
 * @property {(topic: string, position: number, told: boolean) => Promise<void>} read The user has read so far; `told`: the broker knows. It never goes back.
 * @property {() => Promise<[string, number][]>} untold Read positions that the broker does not know of.
 *
 * @property {(message: Omit<Outgoing, "place">) => Promise<void>} put Keep a message until the broker has it.
 * @property {(after?: number, limit?: number) => Promise<Outgoing[]>} waiting What the broker has not, in order, behind a place; also what it has refused.
 * @property {(key: string) => Promise<void>} sent The broker has it; or the app wants it no more.
 * @property {(key: string, reason: string) => Promise<void>} refused The broker will never take it.
 *
 * @property {() => Promise<{offset: number, dataEpoch: string}>} mark Up to where the inbox was taken, and of which copy of the broker's data that is; empty where that is not known.
 * @property {(offset: number, dataEpoch: string) => Promise<void>} begin What follows is of this copy of the data.
 * @property {() => Promise<void>} forget The broker's data is another copy: sequences name other messages there. The outbox stays.
 */

export {};
