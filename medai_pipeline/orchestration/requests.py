"""What callers of the API ask to be computed: a sensor that turns requests into runs, and the job that answers them."""

import dagster as dg

from medai_pipeline import answering
from medai_pipeline.errors import MedaiError
from medai_pipeline.orchestration.study_loop import RunSession
from medai_pipeline.services import Services

REQUEST_JOB = "request_job"
_AHEAD = {"dagster/priority": "10"}  # somebody waits; new studies have 0


@dg.op(required_resource_keys={"session"}, description="Answers the requests that wait, one after the other.")
def answer_requests(context: dg.OpExecutionContext) -> None:
    session: RunSession = context.resources.session
    services = session.services
    services.hold(session.run_id)
    answered = 0
    while request := services.requests.claim(session.run_id, services.now()):
        services.hold(session.run_id)
        answering.compute(services, session.inference, request, session.run_id)
        answered += 1
        context.log.info(f"request {request.id}: {request.kind} of study {request.study_key}")
    context.add_output_metadata({"requests": answered})


@dg.job(
    name=REQUEST_JOB,
    executor_def=dg.in_process_executor,
    description="What callers of the API asked of single images, with the model and the method that they named.",
)
def request_job() -> None:
    answer_requests()


def api_requests(services: Services) -> dg.SensorDefinition:
    @dg.sensor(
        name="api_requests",
        job=request_job,
        minimum_interval_seconds=services.settings.sensor_seconds,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Answers requests from reports where they say it, and asks for a run for the others.",
    )
    def evaluate(context: dg.SensorEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        try:
            return request_run(services) or dg.SkipReason("nobody waits for an answer that must be computed")
        except MedaiError as error:
            return dg.SkipReason(error.reason)

    return evaluate


def request_run(services: Services) -> dg.RunRequest | None:
    """Takes up what dead runs left, answers what reports say, and asks for one run for all the rest."""
    requests, now = services.requests, services.now()
    for request in requests.running():
        if not services.lifecycle.run_is_held(request.run_id or ""):
            requests.put_back(request, now)
    for request in requests.lost(now):
        requests.put_back(request, now)
    for request in requests.hopeless():
        requests.fail(request, "its study has failed, or vanished: the worklist says why", now)
    open_ones = [request for request in requests.waiting() if not answering.from_report(services, request)]
    marked = requests.mark_requested([request.id for request in open_ones], now)
    if not marked:
        return None
    return dg.RunRequest(run_key=f"requests {marked[0]} {now.timestamp():.0f}", tags=_AHEAD)
