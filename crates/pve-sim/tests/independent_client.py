"""Basic calls by proxmoxer, an independent client, against the simulated API daemon.

The daemon speaks HTTP on the loopback interface; proxmoxer speaks HTTPS. The adapter takes the encryption away and
leaves all else to proxmoxer: paths, parameters, authentication, errors.
"""

import sys
import time

import requests
from proxmoxer import ProxmoxAPI, ResourceException


class Plain(requests.adapters.HTTPAdapter):
    def send(self, request, **kwargs):
        request.url = request.url.replace("https://", "http://", 1)
        return super().send(request, **kwargs)


requests.Session.get_adapter = lambda self, url: Plain()

port, ticket, token, secret = sys.argv[1:]
user, name = token.split("!")


def finished(api, upid):
    while True:
        status = api.nodes("prom").tasks(upid).status.get()
        if status["status"] == "stopped":
            return status["exitstatus"]
        time.sleep(0.01)


def basics(api):
    assert api.version.get()["release"] == "9.2"
    assert [node["node"] for node in api.nodes.get()] == ["prom"]
    vms = {vm["vmid"]: vm for vm in api.cluster.resources.get(type="vm")}
    assert vms[9002]["template"] == 1 and vms[104]["status"] == "running", vms
    assert any(storage["storage"] == "nvmeprom" for storage in api.nodes("prom").storage.get())
    assert api.cluster.nextid.get() == "100"


def life(api, vmid):
    node = api.nodes("prom")
    assert finished(api, node.qemu(9002).clone.post(newid=vmid, name="web", full=1)) == "OK"
    vm = node.qemu(vmid)
    assert vm.config.put(cores=3, description="ü = & ;\nsecond line") is None
    config = vm.config.get()
    assert (config["cores"], config["description"]) == (3, "ü = & ;\nsecond line"), config
    assert finished(api, vm.resize.put(disk="scsi0", size="+1G")) == "OK"
    assert finished(api, vm.snapshot.post(snapname="before")) == "OK"
    assert [s["name"] for s in vm.snapshot.get()] == ["before", "current"]
    assert finished(api, vm.status.start.post()) == "OK"
    assert vm.status.current.get()["status"] == "running"
    assert finished(api, vm.status.stop.post()) == "OK"
    assert finished(api, vm.delete(purge=1)) == "OK"


def refused(status, words, call, **params):
    try:
        call(**params)
    except ResourceException as error:
        assert error.status_code == status and words in str(error), error
        return error
    raise AssertionError("not refused")


by_ticket = ProxmoxAPI(f"127.0.0.1:{port}", user="root@pam", password=ticket, verify_ssl=False)
basics(by_ticket)
life(by_ticket, 130)
by_token = ProxmoxAPI(f"127.0.0.1:{port}", user=user, token_name=name, token_value=secret, verify_ssl=False)
basics(by_token)
life(by_token, 131)

template = by_ticket.nodes("prom").qemu(9002)
fault = refused(400, "Parameter verification failed", template.config.put, cores=0)
assert fault.errors == {"cores": "value must have a minimum value of 1"}, fault.errors
refused(500, "does not exist", by_ticket.nodes("prom").qemu(999).config.get)
refused(501, "not implemented", by_ticket.nosuch.get)
refused(500, "only root can set 'args' config", by_token.nodes("prom").qemu(9002).config.put, args="-nodefaults")
wrong = ProxmoxAPI(f"127.0.0.1:{port}", user=user, token_name=name, token_value="wrong", verify_ssl=False)
refused(401, "", wrong.version.get)
print("proxmoxer: all calls as expected")
