"""A day in the life of two slixmpp users: STARTTLS with the pool's CA verified, roster, subscription, chat, a room, archives, a
connection that is lost and resumed on another node.

Usage: story.py CA HOST:PORT HOST:PORT — alice is on the first node, bob on the second. Prints one line a step; the
last is "done". Every wait has a limit; what does not come ends the program with a code other than 0.
"""

import asyncio
import ssl
import sys

import slixmpp
from slixmpp.exceptions import IqError

LIMIT = 20
DOMAIN = "localhost"
ROOM = "salon@conference.localhost"


class User(slixmpp.ClientXMPP):
    """A user whose events can be awaited."""

    def __init__(self, name, ca):
        super().__init__(f"{name}@{DOMAIN}", f"{name}-password")
        self.name = name
        for plugin in ("xep_0030", "xep_0045", "xep_0199", "xep_0198", "xep_0313", "xep_0280"):
            self.register_plugin(plugin)
        self.ca_certs = ca
        self.enable_direct_tls = False
        self.enable_starttls = True
        self.enable_plaintext = False
        self.auto_authorize = None
        self.seen = asyncio.Queue()
        for event in ("message", "presence_available", "presence_unavailable", "presence_subscribe", "groupchat_message"):
            self.add_event_handler(event, lambda stanza, event=event: self.seen.put_nowait((event, stanza)))

    async def log_in(self, address):
        host, port = address.rsplit(":", 1)
        started = self.wait_until("session_start", LIMIT)
        self.add_event_handler("failed_all_auth", lambda _: step_failed(f"{self.name}: login refused"))
        result = self.connect(host, int(port))
        if asyncio.iscoroutine(result) or isinstance(result, asyncio.Future):
            await asyncio.wait_for(result, LIMIT)
        await started
        tls = self.transport.get_extra_info("ssl_object")
        assert tls is not None, "the stream is not encrypted"
        assert tls.getpeercert(), "the certificate was not verified"
        assert tls.context.verify_mode == ssl.CERT_REQUIRED, "the certificate was not verified"

    async def see(self, what, fits):
        """Waits for an event that fits; others are dropped."""
        async with asyncio.timeout(LIMIT):
            while True:
                event, stanza = await self.seen.get()
                if event == what and fits(stanza):
                    return stanza


def once(user, event):
    """What the next event of this kind brings."""
    future = asyncio.get_running_loop().create_future()

    def happened(value):
        if not future.done():
            future.set_result(value)

    user.add_event_handler(event, happened, disposable=True)
    return asyncio.wait_for(future, LIMIT)


def step_failed(why):
    print(why, flush=True)
    sys.exit(1)


def step(what):
    print(what, flush=True)


def is_from(name):
    return lambda stanza: stanza["from"].bare == f"{name}@{DOMAIN}"


async def friends(alice, bob):
    await alice.get_roster()
    await bob.get_roster()
    alice.send_presence()
    bob.send_presence()
    alice.send_presence_subscription(pto=bob.boundjid.bare)
    await bob.see("presence_subscribe", is_from("alice"))
    bob.send_presence(pto=alice.boundjid.bare, ptype="subscribed")
    await alice.see("presence_available", is_from("bob"))
    # The result is empty where the client's version is current (RFC 6121 §2.6.3); its own copy is right after the answer,
    # which follows every push.
    await alice.get_roster()
    assert alice.client_roster[bob.boundjid.bare]["subscription"] == "to"
    step("friends")


async def chat(alice, bob):
    alice.send_message(mto=bob.boundjid.bare, mbody="good morning", mtype="chat")
    await bob.see("message", lambda m: m["body"] == "good morning")
    bob.send_message(mto=alice.boundjid.full, mbody="good morning to you", mtype="chat")
    await alice.see("message", lambda m: m["body"] == "good morning to you")
    step("chat")


async def room(alice, bob):
    joined = await alice.plugin["xep_0045"].join_muc_wait(ROOM, "Alice", maxstanzas=0, timeout=LIMIT)
    assert 201 in joined[0]["muc"]["status_codes"], "alice makes the room"
    form = await alice.plugin["xep_0045"].get_room_config(ROOM)
    form["type"] = "submit"
    await alice.plugin["xep_0045"].set_room_config(ROOM, form)
    joined = await bob.plugin["xep_0045"].join_muc_wait(ROOM, "Bob", maxstanzas=0, timeout=LIMIT)
    assert "Alice" in [presence["from"].resource for presence in joined[2]]
    bob.send_message(mto=ROOM, mbody="is anybody here?", mtype="groupchat")
    await alice.see("groupchat_message", lambda m: m["body"] == "is anybody here?")
    step("room")


async def archives(alice, bob):
    async def texts(user, **query):
        found = []
        async for message in user.plugin["xep_0313"].iterate(**query):
            body = message["mam_result"]["forwarded"]["stanza"]["body"]
            if body:
                found.append(body)
        return found

    with_bob = await texts(alice, with_jid=bob.boundjid.bare)
    assert with_bob == ["good morning", "good morning to you"], with_bob
    backwards = await texts(alice, with_jid=bob.boundjid.bare, reverse=True, rsm={"max": "1"})
    assert sorted(backwards) == sorted(with_bob), backwards
    in_room = await texts(bob, jid=slixmpp.JID(ROOM))
    assert in_room == ["is anybody here?"], in_room
    try:
        await bob.plugin["xep_0313"].retrieve(jid=alice.boundjid)
        raise AssertionError("bob read alice's archive")
    except IqError:
        pass
    step("archives")


async def resumption(alice, bob, addresses):
    """Bob's connection is cut; the library resumes his session, each time on another node."""
    for number, address in enumerate(addresses):
        sm_id, full = bob.plugin["xep_0198"].sm_id, bob.boundjid.full
        assert sm_id, "the session can be resumed"
        while not alice.seen.empty():
            alice.seen.get_nowait()
        gone, resumed = once(bob, "disconnected"), once(bob, "session_resumed")
        bob.transport.abort()
        await gone
        expected = {f"chat {number}", f"room {number}", f"full {number}"}
        alice.send_message(mto=bob.boundjid.bare, mbody=f"chat {number}", mtype="chat")
        alice.send_message(mto=ROOM, mbody=f"room {number}", mtype="groupchat")
        alice.send_message(mto=full, mbody=f"full {number}", mtype="chat")
        host, port = address.rsplit(":", 1)
        bob.connect(host, int(port))
        await resumed
        assert (bob.plugin["xep_0198"].sm_id, bob.boundjid.full) == (sm_id, full)
        bodies = []
        async with asyncio.timeout(LIMIT):
            while set(bodies) != expected:
                event, stanza = await bob.seen.get()
                if event == "message" and stanza["body"] in expected:
                    bodies.append(stanza["body"])
        assert len(bodies) == len(expected), bodies
        bob.send_message(mto=ROOM, mbody=f"back {number}", mtype="groupchat")
        await alice.see("groupchat_message", lambda m: m["body"] == f"back {number}")
        # Nobody has seen him go.
        await bob.plugin["xep_0199"].ping(timeout=LIMIT)
        while not alice.seen.empty():
            event, stanza = alice.seen.get_nowait()
            assert event != "presence_unavailable", stanza
    step("resumption")


async def main(ca, first, second):
    alice, bob = User("alice", ca), User("bob", ca)
    await alice.log_in(first)
    await bob.log_in(second)
    step("logged in")
    await friends(alice, bob)
    await chat(alice, bob)
    await room(alice, bob)
    await archives(alice, bob)
    await resumption(alice, bob, [first, second, second])
    await bob.disconnect()
    await alice.see("presence_unavailable", is_from("bob"))
    await alice.disconnect()
    step("done")


if __name__ == "__main__":
    asyncio.run(asyncio.wait_for(main(*sys.argv[1:]), 120))
